//! `--profile find-capacity`: which rate keeps the objectives, and where that ends.
//!
//! The rate doubles until a step misses, then the gap between the highest kept and the lowest
//! missed is halved by ratio until they are within [`CLOSE_ENOUGH`] of each other. A step that
//! misses is tried once more before it is believed: one hiccup must not cost half of the capacity.
//! The knee is the highest rate kept.

/// The search ends when the lowest rate missed is no more than this times the highest kept.
pub(crate) const CLOSE_ENOUGH: f64 = 1.06;
/// Steps at most, whatever they show.
pub(crate) const STEPS_MAX: usize = 40;

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Kept,
    Missed,
    /// The generator itself did not keep up: nobody knows.
    Invalid,
}

/// Where the search stands.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    rate: f64,
    highest_kept: Option<f64>,
    lowest_missed: Option<f64>,
    /// The rate that was missed once and is being tried again.
    retrying: bool,
    steps: usize,
    /// The lowest rate above which the generator is the limit.
    generator_limit: Option<f64>,
}

impl Search {
    /// Begins at a rate that should be easy.
    pub(crate) fn new(first_rate: f64) -> Self {
        Self {
            rate: first_rate,
            highest_kept: None,
            lowest_missed: None,
            retrying: false,
            steps: 0,
            generator_limit: None,
        }
    }

    /// The next rate to try; `None` when the search is over.
    pub(crate) fn next_rate(&self) -> Option<f64> {
        let over = self.steps >= STEPS_MAX || self.rate < 1.0;
        let close = match (self.highest_kept, self.lowest_missed) {
            (Some(kept), Some(missed)) => missed <= kept * CLOSE_ENOUGH,
            _ => false,
        };
        (!over && !close).then_some(self.rate)
    }

    /// Takes in how the step at [`Search::next_rate`] ended.
    pub(crate) fn note(&mut self, step: Step) {
        self.steps += 1;
        if step != Step::Kept && !self.retrying {
            self.retrying = true;
            return;
        }
        self.retrying = false;
        match step {
            Step::Kept => self.highest_kept = Some(self.rate),
            Step::Missed => self.lowest_missed = Some(self.rate),
            Step::Invalid => {
                self.lowest_missed = Some(self.rate);
                self.generator_limit = Some(self.rate);
            }
        }
        self.rate = match (self.highest_kept, self.lowest_missed) {
            (Some(kept), Some(missed)) => (kept * missed).sqrt(),
            (Some(kept), None) => kept * 2.0,
            (None, Some(missed)) => missed / 2.0,
            (None, None) => self.rate,
        };
    }

    /// The highest rate kept.
    pub(crate) fn knee(&self) -> Option<f64> {
        self.highest_kept
    }

    /// Whether what ended the search was the generator and not the target.
    pub(crate) fn limited_by_generator(&self) -> bool {
        self.generator_limit.is_some() && self.generator_limit == self.lowest_missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: f64, step: impl Fn(f64, usize) -> Step) -> (Search, Vec<f64>) {
        let mut search = Search::new(first);
        let mut tried = Vec::new();
        while let Some(rate) = search.next_rate() {
            search.note(step(rate, tried.len()));
            tried.push(rate);
        }
        (search, tried)
    }

    fn up_to(capacity: f64) -> impl Fn(f64, usize) -> Step {
        move |rate, _| {
            if rate <= capacity {
                Step::Kept
            } else {
                Step::Missed
            }
        }
    }

    #[test]
    fn the_knee_is_found_from_below_and_from_above() {
        for (first, capacity) in [(100.0, 7_321.0), (500.0, 640.0), (50_000.0, 900.0)] {
            let (search, tried) = search(first, up_to(capacity));
            let knee = search.knee().unwrap();
            assert!(
                knee <= capacity && knee * CLOSE_ENOUGH >= capacity,
                "{knee}: {tried:?}"
            );
            assert!(!search.limited_by_generator());
        }
    }

    #[test]
    fn one_hiccup_costs_one_step() {
        let capacity = up_to(5_000.0);
        for hiccup in 0..8 {
            let (search, tried) = search(100.0, |rate, number| {
                if number == hiccup {
                    Step::Missed
                } else {
                    capacity(rate, number)
                }
            });
            let knee = search.knee().unwrap();
            assert!(
                knee * CLOSE_ENOUGH >= 5_000.0,
                "{hiccup}: {knee}: {tried:?}"
            );
        }
    }

    #[test]
    fn a_target_that_keeps_nothing_has_no_knee() {
        let (search, tried) = search(100.0, |_, _| Step::Missed);
        assert_eq!(search.knee(), None);
        assert!(tried.len() < 20, "{tried:?}");
    }

    #[test]
    fn a_generator_that_ends_the_search_is_named() {
        let (search, _) = search(1_000.0, |rate, _| {
            if rate < 9_000.0 {
                Step::Kept
            } else {
                Step::Invalid
            }
        });
        assert!(search.limited_by_generator());
        assert!(search.knee().unwrap() > 8_000.0);
        // Far above the knee both may be at their end; what counts is what ended the search.
        let (search, _) = self::search(1_000.0, |rate, _| match rate {
            rate if rate < 5_000.0 => Step::Kept,
            rate if rate < 7_000.0 => Step::Missed,
            _ => Step::Invalid,
        });
        assert!(!search.limited_by_generator());
    }

    #[test]
    fn a_target_without_limit_ends_the_search_all_the_same() {
        let (search, tried) = search(1.0, |_, _| Step::Kept);
        assert_eq!(tried.len(), STEPS_MAX);
        assert!(search.knee().is_some());
    }
}
