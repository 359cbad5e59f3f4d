//! One ride from the tape: every fault it has, or none.

use contract::Ride;
use contract::problem::Fault;
use simd_json::{Node, StaticNode};

use super::extra::{self, Member};
use super::{Faults, Item, Refusal, instant, integer, kind_of};

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
}

const FIELDS: usize = 19;

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
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// Builds the ride that a tape holds.
pub(super) fn from_nodes(nodes: &[Node<'_>], path_id: Option<i64>) -> Item {
    from_nodes_with(nodes, path_id, Vec::new())
}

/// The same, where some members were found unreadable and left out of the tape: they count as
/// sent, and their faults come first.
pub(super) fn from_nodes_with(
    nodes: &[Node<'_>],
    path_id: Option<i64>,
    unreadable: Vec<(String, Fault)>,
) -> Item {
    let Node::Object { len, .. } = nodes[0] else {
        let detail = format!("must be a JSON object, not {}", kind_of(&nodes[0]));
        let mut faults = Faults::default();
        faults.push("", detail);
        return Err(Box::new(Refusal::invalid(faults.found, None)));
    };
    let mut members = Members::default();
    for (name, fault) in unreadable {
        members.faults.push_at(fault.pointer, fault.detail);
        if let Some(field) = Field::of(&name) {
            members.unreadable[field as usize] = true;
        }
    }
    members.sort_out(&nodes[1..], len);
    let ride = members.ride(path_id);
    if members.faults.found.is_empty() {
        return Ok(ride);
    }
    let id = (ride.id > 0).then_some(ride.id);
    Err(Box::new(Refusal::invalid(members.faults.found, id)))
}

/// The members of one item by what they are, with the names as sent.
#[derive(Default)]
struct Members<'t, 'a> {
    known: [Option<(&'a str, &'t Node<'a>)>; FIELDS],
    unknown: Vec<Member<'t, 'a>>,
    unreadable: [bool; FIELDS],
    faults: Faults,
}

impl<'t, 'a> Members<'t, 'a> {
    fn sort_out(&mut self, mut rest: &'t [Node<'a>], len: usize) {
        for _ in 0..len {
            let (name, value, after) = extra::split_member(rest);
            rest = after;
            let Some(field) = Field::of(name) else {
                self.unknown.push((name, value));
                continue;
            };
            let slot = &mut self.known[field as usize];
            if self.unreadable[field as usize] {
                self.faults.push(name, "stands twice");
            } else if let Some((first, _)) = slot {
                let detail = if *first == name {
                    "stands twice".to_owned()
                } else {
                    format!("is the same member as {first:?}")
                };
                self.faults.push(name, detail);
            } else {
                *slot = Some((name, &value[0]));
            }
        }
    }

    fn ride(&mut self, path_id: Option<i64>) -> Ride {
        let id = self.id(path_id);
        let (from_lat, from_long) = self.place(Field::FromLat, Field::FromLong);
        let (to_lat, to_long) = self.place(Field::ToLat, Field::ToLong);
        let unknown = std::mem::take(&mut self.unknown);
        Ride {
            id,
            user_id: self.required(Field::UserId, int64),
            vehicle_model_id: self.required(Field::VehicleModelId, int32),
            package_id: self.optional(Field::PackageId, package),
            travel_type_id: self.required(Field::TravelTypeId, travel_type),
            from_area_id: self.optional(Field::FromAreaId, int32),
            to_area_id: self.optional(Field::ToAreaId, int32),
            from_city_id: self.optional(Field::FromCityId, int32),
            to_city_id: self.optional(Field::ToCityId, int32),
            from_date_us: self.required(Field::FromDate, instant),
            to_date_us: self.optional(Field::ToDate, instant),
            online_booking: self.flag(Field::OnlineBooking),
            mobile_site_booking: self.flag(Field::MobileSiteBooking),
            booking_created_us: self.required(Field::BookingCreated, instant),
            from_lat,
            from_long,
            to_lat,
            to_long,
            car_cancellation: self.flag(Field::CarCancellation),
            extra: extra::canonical(unknown, &mut self.faults),
        }
    }

    /// 0 where it has a fault.
    fn id(&mut self, path_id: Option<i64>) -> i64 {
        let Some(path_id) = path_id else {
            return self.required(Field::Id, record_id);
        };
        if let Some((name, node)) = self.known[Field::Id as usize]
            && record_id(node) != Ok(path_id)
        {
            self.faults.push(
                name,
                format!("must be absent or {path_id}, the id in the path"),
            );
        }
        path_id
    }

    fn required<T: Default>(&mut self, field: Field, read: Reader<T>) -> T {
        match self.known[field as usize] {
            Some((name, node)) => self.read(name, node, read).unwrap_or_default(),
            None => {
                if !self.unreadable[field as usize] {
                    self.faults.push(field.name(), "is missing");
                }
                T::default()
            }
        }
    }

    /// Null is the same as absent.
    fn optional<T>(&mut self, field: Field, read: Reader<T>) -> Option<T> {
        let (name, node) = self.known[field as usize]?;
        if is_null(node) {
            return None;
        }
        self.read(name, node, read)
    }

    fn flag(&mut self, field: Field) -> bool {
        self.optional(field, boolean).unwrap_or_default()
    }

    /// Latitude and longitude: both or neither.
    fn place(&mut self, lat: Field, long: Field) -> (Option<f64>, Option<f64>) {
        let faults_before = self.faults.found.len();
        let place = (self.optional(lat, latitude), self.optional(long, longitude));
        let readable = self.faults.found.len() == faults_before
            && !self.unreadable[lat as usize]
            && !self.unreadable[long as usize];
        let (absent, other) = match place {
            (Some(_), None) => (long, lat),
            (None, Some(_)) => (lat, long),
            _ => return place,
        };
        if readable {
            let sent =
                |field: Field| self.known[field as usize].map_or(field.name(), |(name, _)| name);
            let (absent, other) = (sent(absent), sent(other));
            self.faults.push(
                absent,
                format!("is missing: latitude and longitude come together, and {other:?} is set"),
            );
        }
        place
    }

    fn read<T>(&mut self, name: &str, node: &Node<'_>, read: Reader<T>) -> Option<T> {
        read(node)
            .map_err(|expected| {
                let detail = match node {
                    Node::Static(StaticNode::I64(_) | StaticNode::U64(_)) => expected.to_owned(),
                    other => format!("{expected}; it is {}", kind_of(other)),
                };
                self.faults.push(name, detail);
            })
            .ok()
    }
}

/// Reads one value, or says what was expected.
type Reader<T> = fn(&Node<'_>) -> Result<T, &'static str>;

fn is_null(node: &Node<'_>) -> bool {
    matches!(node, Node::Static(StaticNode::Null))
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
