//! What an answer says of the limits, in the fields of draft-ietf-httpapi-ratelimit-headers-10. The
//! draft still moves: their names and their form are here and nowhere else.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Limit;
use super::bucket::{Bucket, TICKS_PER_SECOND, Ticks};

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Both fields, for one answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RateLimitFields {
    policy: HeaderValue,
    now: HeaderValue,
}

impl RateLimitFields {
    /// Of the limits that there are.
    pub(super) fn of<'b>(
        buckets: impl Iterator<Item = (Limit, &'b Option<Bucket>)>,
        gateways: u32,
        now: Ticks,
    ) -> Self {
        let (mut policy, mut state) = (String::new(), String::new());
        for (limit, bucket) in buckets {
            let Some(bucket) = bucket else { continue };
            if !policy.is_empty() {
                policy.push_str(", ");
                state.push_str(", ");
            }
            let (name, (quota, window)) = (limit.word(), policy_of(bucket));
            write!(policy, r#""{name}";q={quota};w={window}"#).expect("a String grows");
            let remaining = bucket.remaining(gateways, now);
            let full_in = bucket.full_in(now).div_ceil(Ticks::from(TICKS_PER_SECOND));
            write!(state, r#""{name}";r={remaining};t={full_in}"#).expect("a String grows");
        }
        let value = |text: String| HeaderValue::try_from(text).expect("words and numbers");
        Self {
            policy: value(policy),
            now: value(state),
        }
    }

    /// Adds them to an answer.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY, self.policy);
        headers.insert(RATE_LIMIT, self.now);
    }
}

/// Quota and window in whole seconds, of all gateways together: the burst and how long it takes to
/// be made up for, or what a second allows where that is more.
fn policy_of(bucket: &Bucket) -> (u32, u32) {
    let (rate, burst) = (bucket.rate().get(), bucket.burst().get());
    (burst.max(rate), burst.div_ceil(rate))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn the_fields_of_the_draft() {
        let bucket = |rate, burst| {
            let rate = NonZeroU32::new(rate).expect("not 0");
            Some(Bucket::full(rate, NonZeroU32::new(burst)))
        };
        let (mut records, bytes) = (bucket(100, 550), bucket(1_000, 10));
        if let Some(records) = &mut records {
            records.take(Ticks::from(TICKS_PER_SECOND) * 3 / 2);
        }
        let none = None;
        let text = |limits: &[(Limit, &Option<Bucket>)], gateways| {
            let mut headers = HeaderMap::new();
            RateLimitFields::of(limits.iter().copied(), gateways, 0).write(&mut headers);
            let text = |name: &str| headers[name].to_str().expect("ASCII").to_owned();
            (text("ratelimit-policy"), text("ratelimit"))
        };
        let (policy, state) = text(&[(Limit::Records, &records), (Limit::Bytes, &bytes)], 1);
        assert_eq!(policy, r#""records";q=550;w=6, "bytes";q=1000;w=1"#);
        assert_eq!(state, r#""records";r=400;t=2, "bytes";r=10;t=0"#);
        // What is left is this gateway's part: no promise that it cannot keep.
        let (policy, state) = text(&[(Limit::Records, &records), (Limit::Bytes, &none)], 5);
        assert_eq!(policy, r#""records";q=550;w=6"#);
        assert_eq!(state, r#""records";r=80;t=2"#);
    }
}
