//! One chart as SVG: drawn here, so that it shows without a script; its colours come from the
//! page's style, so that it follows light and dark.

use super::escape;
use super::scale::Scale;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 26.0;
/// Between the numbers of two marks, so that both can be read.
const BADGE_WIDTH: f64 = 17.0;

/// A label's middle keeps this far from the right end of its axis.
const EDGE: f64 = 12.0;

/// A chart with what stands above it.
pub(super) struct Chart {
    /// Names the figure within the page.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What is drawn, in which unit.
    pub(super) note: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// Where each line has its values, ascending.
    pub(super) xs: Vec<f64>,
    pub(super) lines: Vec<Line>,
    pub(super) marks: Vec<Mark>,
    /// Charts of one group show one moment when pointed at.
    pub(super) group: &'static str,
}

/// One of its axes.
pub(super) struct Axis {
    pub(super) scale: Scale,
    pub(super) ticks: Vec<f64>,
    /// A tick's label: short.
    pub(super) tick_text: fn(f64) -> String,
    /// A value's: exact.
    pub(super) value_text: fn(f64) -> String,
}

/// One row of values.
pub(super) struct Line {
    pub(super) label: String,
    pub(super) colour: Colour,
    pub(super) stroke: Stroke,
    /// One for each of the chart's `xs`; a gap where there is none.
    pub(super) values: Vec<Option<f64>>,
}

/// A colour of the page's style.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Colour {
    /// What the rest is compared with.
    Muted,
    /// From 1 to [`Colour::SERIES`].
    Series(usize),
}

impl Colour {
    /// How many can be told apart.
    pub(super) const SERIES: usize = 7;

    fn class(self) -> String {
        match self {
            Self::Muted => "s0".into(),
            Self::Series(number) => format!("s{number}"),
        }
    }
}

/// How a line is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stroke {
    /// Through.
    Solid,
    /// Through and wide, to lie below another.
    Broad,
    /// Interrupted.
    Dashed,
    /// Bars, each on top of the line before.
    Stacked,
    /// A disc at each value.
    Discs,
    /// A cross at each value.
    Crosses,
}

/// Something that happened, at a place of the horizontal axis.
#[derive(Clone)]
pub(super) struct Mark {
    pub(super) badge: String,
    pub(super) text: String,
    pub(super) from: f64,
    /// Where it was over, if it lasted.
    pub(super) to: Option<f64>,
}

impl Chart {
    /// The whole figure.
    pub(super) fn figure(&self) -> String {
        let Self {
            id, title, note, ..
        } = self;
        let drawn = self
            .lines
            .iter()
            .any(|line| line.values.iter().any(Option::is_some));
        let body = if drawn {
            let (legend, plot) = (self.legend(), self.plot());
            format!("{legend}<div class=\"plot\" tabindex=\"0\">{plot}</div>")
        } else {
            "<p class=\"nothing\">Nothing was measured.</p>".into()
        };
        let note = escape(note);
        format!(
            "<figure id=\"{id}\"><figcaption><h3>{title}</h3><p>{note}</p></figcaption>{body}</figure>\n"
        )
    }

    /// One line alone is what the title says.
    fn legend(&self) -> String {
        if self.lines.len() == 1 {
            return String::new();
        }
        let items: String = self
            .lines
            .iter()
            .map(|line| {
                let (class, label) = (line.colour.class(), escape(&line.label));
                let key = match line.stroke {
                    Stroke::Solid => "<path d=\"M1 6H21\"/>",
                    Stroke::Broad => "<path class=\"broad\" d=\"M3 6H19\"/>",
                    Stroke::Dashed => "<path class=\"dashed\" d=\"M1 6H21\"/>",
                    Stroke::Stacked => "<rect x=\"5\" width=\"12\" height=\"12\"/>",
                    Stroke::Discs => "<circle cx=\"11\" cy=\"6\" r=\"4.5\"/>",
                    Stroke::Crosses => "<path d=\"M7 2l8 8m0 -8l-8 8\"/>",
                };
                format!(
                    "<li><svg class=\"{class}\" width=\"22\" height=\"12\" aria-hidden=\"true\">{key}</svg>{label}</li>"
                )
            })
            .collect();
        format!("<ul class=\"legend\">{items}</ul>")
    }

    fn plot(&self) -> String {
        let (grid, marks, lines, hits) = (self.grid(), self.marks(), self.lines(), self.hits());
        let (label, group) = (escape(&self.in_words()), self.group);
        let bottom = HEIGHT - BOTTOM;
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\" data-group=\"{group}\">\n\
             {grid}{marks}{lines}<path class=\"cross\" d=\"M0 {TOP}V{bottom}\"/><g class=\"hits\">{hits}</g></svg>"
        )
    }

    fn grid(&self) -> String {
        let mut text = String::from("<g class=\"grid\">");
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in &self.y.ticks {
            let y = self.y_of(*tick);
            let label = (self.y.tick_text)(*tick);
            text += &format!(
                "<path d=\"M{LEFT} {y:.1}H{right}\"/><text class=\"y\" x=\"{x}\" y=\"{y:.1}\">{label}</text>",
                x = LEFT - 8.0,
            );
        }
        for tick in &self.x.ticks {
            let x = self.x_of(*tick);
            let label = (self.x.tick_text)(*tick);
            // A label at the right edge ends there.
            let (class, at) = if x > right - EDGE {
                ("x last", WIDTH - 2.0)
            } else {
                ("x", x)
            };
            text += &format!(
                "<path d=\"M{x:.1} {bottom}v4\"/><text class=\"{class}\" x=\"{at:.1}\" y=\"{y}\">{label}</text>",
                y = bottom + 17.0,
            );
        }
        text + "</g>\n"
    }

    fn marks(&self) -> String {
        let mut text = String::from("<g class=\"marks\">");
        let bottom = HEIGHT - BOTTOM;
        let mut free_from = 0.0;
        for mark in &self.marks {
            let from = self.x_of(mark.from);
            if let Some(to) = mark.to {
                let width = self.x_of(to) - from;
                text += &format!(
                    "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>",
                    height = bottom - TOP,
                );
            }
            let at = from.clamp(free_from, WIDTH - BADGE_WIDTH / 2.0);
            free_from = at + BADGE_WIDTH;
            let (badge, title) = (escape(&mark.badge), escape(&mark.text));
            text += &format!(
                "<path d=\"M{from:.1} {TOP}V{bottom}\"/><g><title>{title}</title>\
                 <circle cx=\"{at:.1}\" cy=\"12\" r=\"8\"/><text x=\"{at:.1}\" y=\"12\">{badge}</text></g>"
            );
        }
        text + "</g>\n"
    }

    fn lines(&self) -> String {
        let mut stacked = vec![0.0; self.xs.len()];
        let drawn: String = self
            .lines
            .iter()
            .map(|line| {
                let class = line.colour.class();
                let body = match line.stroke {
                    Stroke::Solid => format!("<path d=\"{}\"/>", self.path(line)),
                    Stroke::Broad => {
                        format!("<path class=\"broad\" d=\"{}\"/>", self.path(line))
                    }
                    Stroke::Dashed => {
                        format!("<path class=\"dashed\" d=\"{}\"/>", self.path(line))
                    }
                    Stroke::Stacked => self.bars(line, &mut stacked),
                    Stroke::Discs => self.each(line, |x, y| {
                        format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>")
                    }),
                    Stroke::Crosses => self.each(line, |x, y| {
                        let (x, y) = (x - 4.0, y - 4.0);
                        format!("<path d=\"M{x:.1} {y:.1}l8 8m0 -8l-8 8\"/>")
                    }),
                };
                format!("<g class=\"{class}\">{body}</g>\n")
            })
            .collect();
        format!("<g class=\"lines\">{drawn}</g>")
    }

    /// A value between two gaps becomes a dot: a stroke of no length has round ends.
    fn path(&self, line: &Line) -> String {
        let mut path = String::new();
        let mut pen_down = false;
        for (x, value) in self.xs.iter().zip(&line.values) {
            let Some(value) = value else {
                pen_down = false;
                continue;
            };
            let (x, y) = (self.x_of(*x), self.y_of(*value));
            path += &if pen_down {
                format!("L{x:.1} {y:.1}")
            } else {
                format!("M{x:.1} {y:.1}h0")
            };
            pen_down = true;
        }
        path
    }

    fn bars(&self, line: &Line, stacked: &mut [f64]) -> String {
        let mut text = String::new();
        for ((column, value), below) in self.columns().zip(&line.values).zip(stacked) {
            let Some(value) = value.filter(|value| *value > 0.0) else {
                continue;
            };
            let (bottom, top) = (self.y_of(*below), self.y_of(*below + value));
            *below += value;
            let (from, to) = column;
            let width = ((to - from) * 0.8).max(1.0);
            text += &format!(
                "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>",
                height = (bottom - top).max(0.5),
            );
        }
        text
    }

    fn each(&self, line: &Line, draw: impl Fn(f64, f64) -> String) -> String {
        let places = self.xs.iter().zip(&line.values);
        places
            .filter_map(|(x, value)| Some(draw(self.x_of(*x), self.y_of((*value)?))))
            .collect()
    }

    /// What is shown when a column is pointed at: by the browser itself, or better by the script.
    fn hits(&self) -> String {
        let mut text = String::new();
        for (index, (from, to)) in self.columns().enumerate() {
            let x = self.xs[index];
            let mut lines = vec![(self.x.value_text)(x)];
            for line in &self.lines {
                if let Some(value) = line.values[index] {
                    lines.push(format!("{}: {}", line.label, (self.y.value_text)(value)));
                }
            }
            text += &format!(
                "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\" data-x=\"{at:.1}\"><title>{title}</title></rect>\n",
                width = (to - from).max(0.1),
                height = HEIGHT - BOTTOM - TOP,
                at = self.x_of(x),
                title = escape(&lines.join("\n")),
            );
        }
        text
    }

    /// Each value's share of the width: to the middle between its neighbours.
    fn columns(&self) -> impl Iterator<Item = (f64, f64)> {
        let middles: Vec<_> = self
            .xs
            .windows(2)
            .map(|pair| self.x_of(pair[0]).midpoint(self.x_of(pair[1])))
            .collect();
        let froms = std::iter::once(LEFT).chain(middles.clone());
        let tos = middles.into_iter().chain([WIDTH - RIGHT]);
        froms.zip(tos).take(self.xs.len())
    }

    /// For those who do not see it.
    fn in_words(&self) -> String {
        let mut text = format!("{}, {}.", self.title, self.note);
        for line in &self.lines {
            let values = || line.values.iter().flatten().copied();
            let (Some(lowest), Some(highest)) =
                (values().reduce(f64::min), values().reduce(f64::max))
            else {
                continue;
            };
            let name = self.y.value_text;
            text += &format!(" {}: {} to {}.", line.label, name(lowest), name(highest));
        }
        for mark in &self.marks {
            text += &format!(" {}: {}.", (self.x.value_text)(mark.from), mark.text);
        }
        text
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + self.x.scale.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y_of(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.scale.place(value) * (HEIGHT - TOP - BOTTOM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::short;

    fn chart(lines: Vec<Line>) -> Chart {
        let axis = |scale: Scale| Axis {
            scale,
            ticks: scale.ticks(),
            tick_text: short,
            value_text: short,
        };
        Chart {
            id: "a",
            title: "A",
            note: "b < c".into(),
            x: axis(Scale::seconds(4.0)),
            y: axis(Scale::up_to(10.0)),
            xs: vec![0.5, 1.5, 2.5, 3.5],
            lines,
            marks: Vec::new(),
            group: "time",
        }
    }

    fn line(stroke: Stroke, values: [Option<f64>; 4]) -> Line {
        Line {
            label: "x & y".into(),
            colour: Colour::Series(1),
            stroke,
            values: values.into(),
        }
    }

    #[test]
    fn a_gap_interrupts_a_line_and_a_lone_value_is_a_dot() {
        let values = [Some(1.0), None, Some(2.0), Some(3.0)];
        let chart = chart(vec![line(Stroke::Solid, values)]);
        let path = chart.path(&chart.lines[0]);
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert_eq!(path.matches('L').count(), 1, "{path}");
    }

    #[test]
    fn bars_stand_on_each_other() {
        let values = [Some(2.0), None, Some(0.0), Some(10.0)];
        let chart = chart(vec![line(Stroke::Stacked, values)]);
        let mut stacked = vec![3.0, 0.0, 0.0, 0.0];
        let bars = chart.bars(&chart.lines[0], &mut stacked);
        assert_eq!(bars.matches("<rect").count(), 2, "{bars}");
        assert_eq!(stacked, [5.0, 0.0, 0.0, 10.0]);
    }

    #[test]
    fn every_column_can_be_pointed_at_and_names_its_values() {
        let values = [Some(1.0), None, Some(2.0), Some(3.0)];
        let figure = chart(vec![line(Stroke::Dashed, values)]).figure();
        assert_eq!(figure.matches("data-x").count(), 4);
        assert!(
            figure.contains("<title>2.5\nx &amp; y: 2</title>"),
            "{figure}"
        );
        assert!(figure.contains("b &lt; c"), "{figure}");
    }

    #[test]
    fn an_empty_chart_says_so() {
        let figure = chart(vec![line(Stroke::Solid, [None; 4])]).figure();
        assert!(figure.contains("Nothing was measured"), "{figure}");
        assert!(!figure.contains("<svg"), "{figure}");
    }

    #[test]
    fn marks_close_to_each_other_keep_their_numbers_apart() {
        let mark = |badge: &str, from| Mark {
            badge: badge.into(),
            text: "kill worker".into(),
            from,
            to: None,
        };
        let mut chart = chart(vec![line(Stroke::Solid, [Some(1.0); 4])]);
        chart.marks = vec![mark("1", 1.0), mark("2", 1.01)];
        let marks = chart.marks();
        let centres: Vec<f64> = marks
            .split("cx=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!(centres[1] - centres[0] >= BADGE_WIDTH - 0.1, "{marks}");
    }
}
