//! What both targets of the gateway's reader share: its forms, and a second opinion.
//!
//! The reader is compiled as modules of the target itself (`gateway!`): nothing in the gateway has to be
//! public, or built in another way, for its fuzzing.

pub(crate) mod opinion;

use crate::json::{Form, courier, ride};

/// Compiles the gateway's reader as modules of the crate's root, where its paths expect them.
#[macro_export]
macro_rules! gateway {
    () => {
        #[path = "../../ingest-gateway/src/item.rs"]
        #[allow(dead_code)]
        mod item;
        #[path = "../../ingest-gateway/src/json/mod.rs"]
        #[allow(dead_code)]
        mod json;
        #[path = "../../ingest-gateway/src/refusal.rs"]
        #[allow(dead_code)]
        mod refusal;
        /// What a refusal may carry of limits, which no reader sets.
        mod quota {
            #[derive(Clone, PartialEq, Eq, Debug)]
            pub(crate) struct RateLimitFields;
        }
    };
}

/// Every form there is, by a byte.
pub(crate) fn form(byte: u8) -> Form {
    let if_match = (byte & 0x80 != 0).then_some(3);
    let of = |action| {
        Form::Courier(courier::Form::Of {
            courier_id: "7".to_owned(),
            action,
            if_match,
        })
    };
    match byte % 11 {
        0 | 1 => Form::Ride(ride::Form::Create),
        2 => Form::Ride(ride::Form::Put { id: 7, if_match }),
        3 => Form::Ride(ride::Form::Save),
        4 => Form::Courier(courier::Form::Create),
        5 => Form::Courier(courier::Form::Commands),
        6 => of(courier::Action::Create),
        7 => of(courier::Action::Update),
        8 => of(courier::Action::SetCapacity),
        9 => of(courier::Action::Pickup),
        _ => of(courier::Action::Delete),
    }
}
