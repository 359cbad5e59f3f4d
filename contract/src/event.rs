//! Events: what Weir tells others of the changes it made. `docs/events.md` is the page for
//! subscribers.
//!
//! An event is a CloudEvents 1.0 document in structured JSON. Its `data` follows a JSON Schema that
//! `dataschema` names with its version; every version ever published stays in `contract/events/`.

use jiff::Timestamp;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::partition::Partition;
use crate::record::Ride;
use crate::tracking_id::TrackingId;

/// The stream that keeps events.
pub const STREAM: &str = "WEIR_EVENTS";

/// Every event there is, of whatever partner.
pub const SUBJECTS: &str = "weir.events.>";

/// Every partition's fence.
pub const FENCE_SUBJECTS: &str = "weir.relay.*";

/// The version of the schemas that this build's documents follow.
pub const SCHEMA_VERSION: u32 = 1;

/// The name, in `type` and `dataschema`, of what a relay writes when it starts.
pub const RELAY_STARTED: &str = "relay_started";

/// What an event is published under, for example `weir.events.7.courier_created`.
#[must_use]
pub fn subject(partner_id: i32, event: &str) -> String {
    format!("weir.events.{partner_id}.{event}")
}

/// What a partition's relays publish their fences under, for example `weir.relay.007`.
#[must_use]
pub fn fence_subject(partition: Partition) -> String {
    format!("weir.relay.{:03}", partition.0)
}

/// The CloudEvents id of a command's n-th event, from 0: the same in every delivery.
#[must_use]
pub fn event_id(tracking_id: TrackingId, n: u32) -> String {
    format!("{tracking_id}/{n}")
}

/// The JSON Schema (2020-12) of an event's `data`; of the whole document for `envelope`.
#[must_use]
pub fn schema(name: &str, version: u32) -> Option<&'static str> {
    match (name, version) {
        ("envelope", 1) => Some(include_str!("../events/envelope-v1.schema.json")),
        ("courier_created", 1) => Some(include_str!("../events/courier_created-v1.schema.json")),
        ("courier_updated", 1) => Some(include_str!("../events/courier_updated-v1.schema.json")),
        ("courier_capacity_updated", 1) => Some(include_str!(
            "../events/courier_capacity_updated-v1.schema.json"
        )),
        ("courier_deleted", 1) => Some(include_str!("../events/courier_deleted-v1.schema.json")),
        ("ride_created", 1) => Some(include_str!("../events/ride_created-v1.schema.json")),
        ("ride_replaced", 1) => Some(include_str!("../events/ride_replaced-v1.schema.json")),
        (RELAY_STARTED, 1) => Some(include_str!("../events/relay_started-v1.schema.json")),
        _ => None,
    }
}

/// A change that was made.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A courier is new.
    CourierCreated(CourierState),
    /// Something other than a courier's available capacity changed.
    CourierUpdated(CourierState),
    /// A courier's available capacity changed.
    CourierCapacityUpdated(CapacityChange),
    /// A courier is gone; this is what it was.
    CourierDeleted(CourierState),
    /// A booking is new.
    RideCreated(RideState),
    /// A booking has other content now.
    RideReplaced(RideState),
}

/// A courier as it is after the change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CourierState {
    /// See [`crate::CourierCommand`].
    pub courier_id: String,
    /// Of the courier after the change; at least 1.
    pub version: i32,
    /// What people call it.
    pub name: String,
    /// Litres.
    pub max_capacity: i32,
    /// Litres that still fit, 0 to `max_capacity`.
    pub available_capacity: i32,
    /// What it drives.
    pub vehicle_type: Option<String>,
    /// Its telephone number.
    pub phone: Option<String>,
    /// A JSON object, as text.
    #[serde(serialize_with = "json")]
    pub attributes: Option<String>,
}

/// A change of a courier's available capacity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CapacityChange {
    /// See [`crate::CourierCommand`].
    pub courier_id: String,
    /// Of the courier after the change; at least 2.
    pub version: i32,
    /// Litres, after the change.
    pub max_capacity: i32,
    /// The available capacity before, in litres; the courier's former event of this kind, or its
    /// creation, left it there.
    pub previous: i32,
    /// The available capacity after, in litres.
    pub new: i32,
    /// Which command did it.
    pub cause: CapacityCause,
    /// The sender's name for the pickup or dropoff; `None` for other causes.
    pub reference: Option<String>,
}

/// Which command changed the available capacity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CapacityCause {
    /// A patch of the courier.
    Update,
    /// The available capacity was set.
    SetCapacity,
    /// Something was loaded.
    Pickup,
    /// Something was unloaded.
    Dropoff,
}

/// A booking as it is after the change. Instants are RFC 3339 in UTC.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are those of a ride")]
pub struct RideState {
    pub id: i64,
    pub user_id: i64,
    /// Of the ride after the change; at least 1.
    pub version: i32,
    pub vehicle_model_id: i32,
    pub package_id: Option<i32>,
    pub travel_type_id: i32,
    pub from_area_id: Option<i32>,
    pub to_area_id: Option<i32>,
    pub from_city_id: Option<i32>,
    pub to_city_id: Option<i32>,
    pub from_date: String,
    pub to_date: Option<String>,
    pub online_booking: bool,
    pub mobile_site_booking: bool,
    pub booking_created: String,
    pub from_lat: Option<f64>,
    pub from_long: Option<f64>,
    pub to_lat: Option<f64>,
    pub to_long: Option<f64>,
    pub car_cancellation: bool,
    /// A JSON object, as text.
    #[serde(serialize_with = "json")]
    pub extra: Option<String>,
}

impl RideState {
    /// A ride that has this version now.
    #[must_use]
    pub fn new(ride: &Ride, version: i32) -> Self {
        Self {
            id: ride.id,
            user_id: ride.user_id,
            version,
            vehicle_model_id: ride.vehicle_model_id,
            package_id: ride.package_id,
            travel_type_id: ride.travel_type_id,
            from_area_id: ride.from_area_id,
            to_area_id: ride.to_area_id,
            from_city_id: ride.from_city_id,
            to_city_id: ride.to_city_id,
            from_date: instant(ride.from_date_us),
            to_date: ride.to_date_us.map(instant),
            online_booking: ride.online_booking,
            mobile_site_booking: ride.mobile_site_booking,
            booking_created: instant(ride.booking_created_us),
            from_lat: ride.from_lat,
            from_long: ride.from_long,
            to_lat: ride.to_lat,
            to_long: ride.to_long,
            car_cancellation: ride.car_cancellation,
            extra: ride.extra.clone(),
        }
    }
}

impl Event {
    /// The names of all events, as in subjects.
    pub const NAMES: [&'static str; 6] = [
        "courier_created",
        "courier_updated",
        "courier_capacity_updated",
        "courier_deleted",
        "ride_created",
        "ride_replaced",
    ];

    /// The last token of its subject.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CourierCreated(_) => "courier_created",
            Self::CourierUpdated(_) => "courier_updated",
            Self::CourierCapacityUpdated(_) => "courier_capacity_updated",
            Self::CourierDeleted(_) => "courier_deleted",
            Self::RideCreated(_) => "ride_created",
            Self::RideReplaced(_) => "ride_replaced",
        }
    }

    /// The CloudEvents document; `n` counts the events of one command, from 0.
    ///
    /// # Panics
    /// If `attributes` or `extra` is not JSON: whoever made them has checked.
    #[must_use]
    pub fn document(&self, partner_id: i32, tracking_id: TrackingId, n: u32) -> String {
        let (subject, data) = match self {
            Self::CourierCreated(state)
            | Self::CourierUpdated(state)
            | Self::CourierDeleted(state) => (
                format!("couriers/{}", state.courier_id),
                Data::Courier(state),
            ),
            Self::CourierCapacityUpdated(change) => (
                format!("couriers/{}", change.courier_id),
                Data::Capacity(change.into()),
            ),
            Self::RideCreated(state) | Self::RideReplaced(state) => {
                (format!("rides/{}", state.id), Data::Ride(state))
            }
        };
        let milliseconds = i64::try_from(tracking_id.unix_ms()).expect("48 bits");
        Document {
            specversion: "1.0",
            id: event_id(tracking_id, n),
            source: format!("urn:weir:partner:{partner_id}"),
            r#type: format!("weir.{}", self.name()),
            subject,
            time: instant_ms(milliseconds),
            datacontenttype: "application/json",
            dataschema: dataschema(self.name()),
            data: Tracked { data, tracking_id },
        }
        .to_json()
    }
}

/// The document that a relay publishes before anything else: no event of the partition that an
/// earlier relay still has in hand is taken after it.
///
/// `started_ms` is in Unix milliseconds, `id` unique to this start, `worker` for people.
#[must_use]
pub fn relay_started(partition: Partition, id: &str, worker: &str, started_ms: i64) -> String {
    #[derive(Serialize)]
    struct RelayStarted<'a> {
        partition: u8,
        worker: &'a str,
    }
    Document {
        specversion: "1.0",
        id: id.to_owned(),
        source: format!("urn:weir:relay:{:03}", partition.0),
        r#type: format!("weir.{RELAY_STARTED}"),
        subject: format!("partitions/{:03}", partition.0),
        time: instant_ms(started_ms),
        datacontenttype: "application/json",
        dataschema: dataschema(RELAY_STARTED),
        data: RelayStarted {
            partition: partition.0,
            worker,
        },
    }
    .to_json()
}

/// CloudEvents 1.0, structured content mode.
#[derive(Serialize)]
struct Document<D> {
    specversion: &'static str,
    id: String,
    source: String,
    r#type: String,
    subject: String,
    time: String,
    datacontenttype: &'static str,
    dataschema: String,
    data: D,
}

impl<D: Serialize> Document<D> {
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers; attributes and extra are JSON")
    }
}

/// An event's data, with the tracking id of the command that caused it.
#[derive(Serialize)]
struct Tracked<'a> {
    #[serde(flatten)]
    data: Data<'a>,
    tracking_id: TrackingId,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Courier(&'a CourierState),
    Capacity(Capacity<'a>),
    Ride(&'a RideState),
}

#[derive(Serialize)]
struct Capacity<'a> {
    courier_id: &'a str,
    version: i32,
    max_capacity: i32,
    previous: i32,
    new: i32,
    difference: i64,
    cause: CapacityCause,
    reference: Option<&'a str>,
}

impl<'a> From<&'a CapacityChange> for Capacity<'a> {
    fn from(change: &'a CapacityChange) -> Self {
        Self {
            courier_id: &change.courier_id,
            version: change.version,
            max_capacity: change.max_capacity,
            previous: change.previous,
            new: change.new,
            difference: i64::from(change.new) - i64::from(change.previous),
            cause: change.cause,
            reference: change.reference.as_deref(),
        }
    }
}

fn dataschema(name: &str) -> String {
    format!("urn:weir:schema:{name}:{SCHEMA_VERSION}")
}

/// The text as the JSON it is, so that no number in it loses a digit.
fn json<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let raw: Option<&RawValue> = text
        .as_deref()
        .map(serde_json::from_str)
        .transpose()
        .map_err(S::Error::custom)?;
    raw.serialize(serializer)
}

/// RFC 3339 in UTC, with as many digits as it takes. Years beyond 9999 show as its end.
fn instant(us: i64) -> String {
    let latest = if us < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Timestamp::from_microsecond(us)
        .unwrap_or(latest)
        .to_string()
}

fn instant_ms(ms: i64) -> String {
    let shown = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    format!("{shown:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn tracking_id() -> TrackingId {
        "01234567-89ab-7aaa-aa55-550f0fc3b8fc".parse().unwrap()
    }

    fn courier() -> CourierState {
        CourierState {
            courier_id: "c-1".to_owned(),
            version: 3,
            name: "Ada".to_owned(),
            max_capacity: 60,
            available_capacity: 45,
            vehicle_type: Some("bicycle".to_owned()),
            phone: None,
            attributes: Some(r#"{"a":12345678901234567890.50}"#.to_owned()),
        }
    }

    fn events() -> [Event; 6] {
        let ride = Ride {
            id: 7,
            user_id: 9,
            from_date_us: 1_357_007_400_123_456,
            ..Ride::default()
        };
        [
            Event::CourierCreated(courier()),
            Event::CourierUpdated(courier()),
            Event::CourierCapacityUpdated(CapacityChange {
                courier_id: "c-1".to_owned(),
                version: 3,
                max_capacity: 60,
                previous: 60,
                new: 45,
                cause: CapacityCause::SetCapacity,
                reference: None,
            }),
            Event::CourierDeleted(courier()),
            Event::RideCreated(RideState::new(&ride, 1)),
            Event::RideReplaced(RideState::new(&ride, 2)),
        ]
    }

    #[test]
    fn a_document_is_a_cloud_event() {
        let text = events()[0].document(7, tracking_id(), 0);
        assert_eq!(
            text,
            concat!(
                r#"{"specversion":"1.0","id":"01234567-89ab-7aaa-aa55-550f0fc3b8fc/0","#,
                r#""source":"urn:weir:partner:7","type":"weir.courier_created","#,
                r#""subject":"couriers/c-1","time":"2009-08-23T03:58:16.491Z","#,
                r#""datacontenttype":"application/json","#,
                r#""dataschema":"urn:weir:schema:courier_created:1","#,
                r#""data":{"courier_id":"c-1","version":3,"name":"Ada","max_capacity":60,"#,
                r#""available_capacity":45,"vehicle_type":"bicycle","phone":null,"#,
                r#""attributes":{"a":12345678901234567890.50},"#,
                r#""tracking_id":"01234567-89ab-7aaa-aa55-550f0fc3b8fc"}}"#
            )
        );
    }

    #[test]
    fn a_capacity_change_says_the_difference() {
        let text = events()[2].document(7, tracking_id(), 1);
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["id"], "01234567-89ab-7aaa-aa55-550f0fc3b8fc/1");
        assert_eq!(
            document["data"],
            json!({
                "courier_id": "c-1", "version": 3, "max_capacity": 60, "previous": 60, "new": 45,
                "difference": -15, "cause": "set_capacity", "reference": null,
                "tracking_id": "01234567-89ab-7aaa-aa55-550f0fc3b8fc",
            })
        );
    }

    #[test]
    fn a_ride_says_its_instants_in_rfc_3339() {
        let text = events()[5].document(7, tracking_id(), 0);
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["subject"], "rides/7");
        assert_eq!(document["data"]["from_date"], "2013-01-01T02:30:00.123456Z");
        assert_eq!(document["data"]["to_date"], Value::Null);
        assert_eq!(instant(i64::MAX), Timestamp::MAX.to_string());
    }

    #[test]
    fn names_subjects_and_schemas_belong_together() {
        assert_eq!(events().map(|event| event.name()), Event::NAMES);
        assert_eq!(
            subject(7, "courier_created"),
            "weir.events.7.courier_created"
        );
        assert_eq!(fence_subject(Partition(7)), "weir.relay.007");
        for name in Event::NAMES.into_iter().chain(["envelope", RELAY_STARTED]) {
            let schema = schema(name, SCHEMA_VERSION).expect("every event has a schema");
            let schema: Value = serde_json::from_str(schema).unwrap();
            assert_eq!(schema["$id"], dataschema(name));
        }
        assert_eq!(schema("courier_created", 0), None);
        assert_eq!(schema("courier_vanished", 1), None);
    }
}
