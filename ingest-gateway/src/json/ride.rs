//! One ride from the tape: every fault it has, or none.

use contract::problem::Fault;
use contract::{Operation, Record, Ride};
use simd_json::{Node, StaticNode};

use super::members::{self, Field as _};
use super::{Parsed, Refusal, extra, instant, integer};
use crate::item::Item;

/// A member that Weir knows; the discriminant is its place in [`NAMES`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Field {
    Id,
    UserId,
    VehicleModelId,
    PackageId,
    TravelTypeId,
    FromAreaId,
    ToAreaId,
    FromCityId,
    ToCityId,
    FromDate,
    ToDate,
    OnlineBooking,
    MobileSiteBooking,
    BookingCreated,
    FromLat,
    FromLong,
    ToLat,
    ToLong,
    CarCancellation,
    ExpectedVersion,
}

const FIELDS: usize = 20;

/// The snake_case names: what a missing member is called.
const NAMES: [&str; FIELDS] = [
    "id",
    "user_id",
    "vehicle_model_id",
    "package_id",
    "travel_type_id",
    "from_area_id",
    "to_area_id",
    "from_city_id",
    "to_city_id",
    "from_date",
    "to_date",
    "online_booking",
    "mobile_site_booking",
    "booking_created",
    "from_lat",
    "from_long",
    "to_lat",
    "to_long",
    "car_cancellation",
    "expected_version",
];

impl Field {
    /// In snake_case, or in camelCase with `Id` or `ID`.
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "id" => Self::Id,
            "user_id" | "userId" | "userID" => Self::UserId,
            "vehicle_model_id" | "vehicleModelId" | "vehicleModelID" => Self::VehicleModelId,
            "package_id" | "packageId" | "packageID" => Self::PackageId,
            "travel_type_id" | "travelTypeId" | "travelTypeID" => Self::TravelTypeId,
            "from_area_id" | "fromAreaId" | "fromAreaID" => Self::FromAreaId,
            "to_area_id" | "toAreaId" | "toAreaID" => Self::ToAreaId,
            "from_city_id" | "fromCityId" | "fromCityID" => Self::FromCityId,
            "to_city_id" | "toCityId" | "toCityID" => Self::ToCityId,
            "from_date" | "fromDate" => Self::FromDate,
            "to_date" | "toDate" => Self::ToDate,
            "online_booking" | "onlineBooking" => Self::OnlineBooking,
            "mobile_site_booking" | "mobileSiteBooking" => Self::MobileSiteBooking,
            "booking_created" | "bookingCreated" => Self::BookingCreated,
            "from_lat" | "fromLat" => Self::FromLat,
            "from_long" | "fromLong" => Self::FromLong,
            "to_lat" | "toLat" => Self::ToLat,
            "to_long" | "toLong" => Self::ToLong,
            "car_cancellation" | "carCancellation" | "Car_Cancellation" => Self::CarCancellation,
            "expected_version" | "expectedVersion" => Self::ExpectedVersion,
            _ => return None,
        })
    }
}

impl members::Field for Field {
    fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Which route the rides are sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Create,
    /// Of one ride, by the id in the path.
    Put {
        id: i64,
        /// The version in `If-Match`.
        if_match: Option<i32>,
    },
    /// As XRides' existing client does it.
    Save,
}

/// Builds the ride that a tape holds. The members in `unreadable` were left out of the tape.
pub(super) fn from_nodes(
    nodes: &[Node<'_>],
    form: Form,
    unreadable: Vec<(String, Fault)>,
) -> Parsed {
    let (operation, path_id, if_match) = match form {
        Form::Create => (Operation::Create, None, None),
        Form::Put { id, if_match } => (Operation::Replace, Some(id), if_match),
        Form::Save => (Operation::Replace, None, None),
    };
    let mut members = Members::sort_out(nodes, unreadable, |name| match Field::of(name) {
        // Where there is no condition it is a name like any other.
        Some(Field::ExpectedVersion) if path_id.is_none() => None,
        field => field,
    })?;
    let expected_version = members.expected_version(Field::ExpectedVersion, if_match);
    let ride = ride(&mut members, path_id);
    if members.faults.found.is_empty() {
        return Ok(Item {
            operation,
            expected_version,
            record: Record::Ride(ride),
        });
    }
    let id = (ride.id > 0).then_some(ride.id);
    Err(Box::new(Refusal::invalid(members.faults.found, id)))
}

type Members<'t, 'a> = members::Members<'t, 'a, FIELDS>;

fn ride(members: &mut Members<'_, '_>, path_id: Option<i64>) -> Ride {
    let id = id(members, path_id);
    let (from_lat, from_long) = place(members, Field::FromLat, Field::FromLong);
    let (to_lat, to_long) = place(members, Field::ToLat, Field::ToLong);
    let unknown = std::mem::take(&mut members.unknown);
    Ride {
        id,
        user_id: members.required(Field::UserId, int64),
        vehicle_model_id: members.required(Field::VehicleModelId, int32),
        package_id: members.optional(Field::PackageId, package),
        travel_type_id: members.required(Field::TravelTypeId, travel_type),
        from_area_id: members.optional(Field::FromAreaId, int32),
        to_area_id: members.optional(Field::ToAreaId, int32),
        from_city_id: members.optional(Field::FromCityId, int32),
        to_city_id: members.optional(Field::ToCityId, int32),
        from_date_us: members.required(Field::FromDate, instant),
        to_date_us: members.optional(Field::ToDate, instant),
        online_booking: flag(members, Field::OnlineBooking),
        mobile_site_booking: flag(members, Field::MobileSiteBooking),
        booking_created_us: members.required(Field::BookingCreated, instant),
        from_lat,
        from_long,
        to_lat,
        to_long,
        car_cancellation: flag(members, Field::CarCancellation),
        extra: extra::canonical(unknown, &mut members.faults),
    }
}

/// 0 where it has a fault.
fn id(members: &mut Members<'_, '_>, path_id: Option<i64>) -> i64 {
    let Some(path_id) = path_id else {
        return members.required(Field::Id, record_id);
    };
    if let Some((name, value)) = members.sent(Field::Id)
        && record_id(&value[0]) != Ok(path_id)
    {
        members.faults.push(
            name,
            format!("must be absent or {path_id}, the id in the path"),
        );
    }
    path_id
}

fn flag(members: &mut Members<'_, '_>, field: Field) -> bool {
    members.optional(field, boolean).unwrap_or_default()
}

/// Latitude and longitude: both or neither.
fn place(members: &mut Members<'_, '_>, lat: Field, long: Field) -> (Option<f64>, Option<f64>) {
    let faults_before = members.faults.found.len();
    let place = (
        members.optional(lat, latitude),
        members.optional(long, longitude),
    );
    let readable = members.faults.found.len() == faults_before
        && !members.is_unreadable(lat)
        && !members.is_unreadable(long);
    let (absent, other) = match place {
        (Some(_), None) => (long, lat),
        (None, Some(_)) => (lat, long),
        _ => return place,
    };
    if readable {
        let sent = |field: Field| members.sent(field).map_or(field.name(), |(name, _)| name);
        let (absent, other) = (sent(absent), sent(other));
        members.faults.push(
            absent,
            format!("is missing: latitude and longitude come together, and {other:?} is set"),
        );
    }
    place
}

fn record_id(node: &Node<'_>) -> Result<i64, &'static str> {
    integer(node)
        .filter(|number| *number > 0)
        .ok_or("must be an integer from 1 to 9223372036854775807")
}

fn int64(node: &Node<'_>) -> Result<i64, &'static str> {
    integer(node).ok_or("must be an integer of 64 bits, written without fraction or exponent")
}

fn int32(node: &Node<'_>) -> Result<i32, &'static str> {
    integer(node)
        .and_then(|number| i32::try_from(number).ok())
        .ok_or("must be an integer of 32 bits, written without fraction or exponent")
}

fn travel_type(node: &Node<'_>) -> Result<i32, &'static str> {
    int32(node)
        .ok()
        .filter(|number| (1..=3).contains(number))
        .ok_or("must be 1 (long distance), 2 (point to point) or 3 (hourly)")
}

fn package(node: &Node<'_>) -> Result<i32, &'static str> {
    int32(node)
        .ok()
        .filter(|number| (1..=7).contains(number))
        .ok_or("must be an integer from 1 to 7, or null")
}

fn instant(node: &Node<'_>) -> Result<i64, &'static str> {
    instant::from_node(node)
}

fn boolean(node: &Node<'_>) -> Result<bool, &'static str> {
    match node {
        Node::Static(StaticNode::Bool(value)) => Ok(*value),
        _ => match integer(node) {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => Err("must be true, false, 0 or 1"),
        },
    }
}

fn latitude(node: &Node<'_>) -> Result<f64, &'static str> {
    degrees(node, 90.0).ok_or("must be a number from -90 to 90, or null")
}

fn longitude(node: &Node<'_>) -> Result<f64, &'static str> {
    degrees(node, 180.0).ok_or("must be a number from -180 to 180, or null")
}

fn degrees(node: &Node<'_>, bound: f64) -> Option<f64> {
    let degrees = match node {
        Node::Static(StaticNode::F64(number)) => *number,
        _ => integer(node)? as f64,
    };
    (-bound..=bound).contains(&degrees).then_some(degrees)
}
