//! One row of a recorded CSV file as the JSON object that the API takes.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// How a column's text becomes JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Integer,
    Float,
    Boolean,
    Instant,
    /// A column that Weir does not know: sent as the text it is.
    Text,
}

impl Kind {
    fn of(name: &str) -> Self {
        let folded: String = name
            .chars()
            .filter(|c| *c != '_')
            .map(|c| c.to_ascii_lowercase())
            .collect();
        match folded.as_str() {
            "id" | "userid" | "vehiclemodelid" | "packageid" | "traveltypeid" | "fromareaid"
            | "toareaid" | "fromcityid" | "tocityid" => Self::Integer,
            "fromlat" | "fromlong" | "tolat" | "tolong" => Self::Float,
            "onlinebooking" | "mobilesitebooking" | "carcancellation" => Self::Boolean,
            "fromdate" | "todate" | "bookingcreated" => Self::Instant,
            _ => Self::Text,
        }
    }
}

/// The columns of a file and the time zone of its dates.
#[derive(Debug)]
pub(crate) struct Converter {
    /// Each with its name already written as a JSON string.
    columns: Vec<(String, String, Kind)>,
    zone: TimeZone,
    id_column: Option<usize>,
}

impl Converter {
    /// Reads the header.
    ///
    /// # Errors
    /// A sentence: a name is empty or stands twice.
    pub(crate) fn new<'a>(
        header: impl Iterator<Item = &'a str>,
        zone: TimeZone,
    ) -> Result<Self, String> {
        let mut columns: Vec<(String, String, Kind)> = Vec::new();
        for (index, name) in header.enumerate() {
            let name = name.trim();
            if name.is_empty() {
                return Err(format!("column {} has no name", index + 1));
            }
            if columns.iter().any(|(other, ..)| other == name) {
                return Err(format!("column {name:?} stands twice"));
            }
            columns.push((name.to_owned(), json_string(name), Kind::of(name)));
        }
        let id_column = columns.iter().position(|(name, ..)| name == "id");
        Ok(Self {
            columns,
            zone,
            id_column,
        })
    }

    /// Which column holds the ride's id.
    pub(crate) fn id_column(&self) -> Option<usize> {
        self.id_column
    }

    /// Appends the row as one line of JSON; on an error `json` is as before.
    ///
    /// # Errors
    /// A sentence for each column that cannot be converted.
    pub(crate) fn convert<'a>(
        &self,
        fields: impl Iterator<Item = &'a str>,
        json: &mut Vec<u8>,
    ) -> Result<(), String> {
        let before = json.len();
        let mut faults = Vec::new();
        json.push(b'{');
        for ((name, member, kind), field) in self.columns.iter().zip(fields) {
            if json.len() > before + 1 {
                json.push(b',');
            }
            json.extend_from_slice(member.as_bytes());
            json.push(b':');
            match self.value(*kind, field) {
                Ok(value) => json.extend_from_slice(value.as_bytes()),
                Err(expected) => faults.push(format!("{name} {field:?} is not {expected}")),
            }
        }
        json.push(b'}');
        if faults.is_empty() {
            return Ok(());
        }
        json.truncate(before);
        Err(faults.join("; "))
    }

    fn value(&self, kind: Kind, field: &str) -> Result<String, &'static str> {
        let text = field.trim();
        if text == "NULL" || (text.is_empty() && kind != Kind::Text) {
            return Ok("null".into());
        }
        match kind {
            Kind::Integer => match text.parse::<i64>() {
                Ok(number) => Ok(number.to_string()),
                Err(_) => Err("a whole number"),
            },
            Kind::Float => float(text),
            Kind::Boolean => match text {
                "0" | "false" | "FALSE" | "False" => Ok("false".into()),
                "1" | "true" | "TRUE" | "True" => Ok("true".into()),
                _ => Err("0, 1, true or false"),
            },
            Kind::Instant => self.instant(text).map(|at| format!("\"{at}\"")),
            Kind::Text => Ok(json_string(field)),
        }
    }

    /// `M/D/YYYY`, `M/D/YYYY H:MM[:SS]`, the same with `YYYY-MM-DD`, all local; or RFC 3339.
    fn instant(&self, text: &str) -> Result<Timestamp, &'static str> {
        const EXPECTED: &str = "a date like 1/31/2013, 1/31/2013 9:30 or 2013-01-31T09:30:00Z";
        const TIMED: [&str; 4] = [
            "%m/%d/%Y %H:%M",
            "%m/%d/%Y %H:%M:%S",
            "%Y-%m-%d %H:%M",
            "%Y-%m-%d %H:%M:%S",
        ];
        const DATED: [&str; 2] = ["%m/%d/%Y", "%Y-%m-%d"];
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(at);
        }
        let timed = TIMED
            .iter()
            .find_map(|format| DateTime::strptime(format, text).ok());
        let local = timed.or_else(|| {
            DATED.iter().find_map(|format| {
                let day = strtime::parse(format, text).ok()?.to_date().ok()?;
                Some(day.to_datetime(jiff::civil::Time::midnight()))
            })
        });
        // A local time that a clock change skips or repeats is taken as RFC 5545 does: skipped
        // ones move forward, of repeated ones the first counts.
        let zoned = local
            .ok_or(EXPECTED)?
            .to_zoned(self.zone.clone())
            .map_err(|_| EXPECTED)?;
        Ok(zoned.timestamp())
    }
}

/// The number as it was written, if JSON can be written so: nothing is rounded on the way.
fn float(text: &str) -> Result<String, &'static str> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => {
            if serde_json::from_str::<f64>(text).is_ok() {
                Ok(text.to_owned())
            } else {
                Ok(number.to_string())
            }
        }
        _ => Err("a number"),
    }
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn converted(zone: &str, header: &str, row: &str) -> Result<Value, String> {
        let zone = TimeZone::get(zone).unwrap();
        let converter = Converter::new(header.split(','), zone)?;
        let mut line = b"before".to_vec();
        let result = converter.convert(row.split(','), &mut line);
        let rest = line.strip_prefix(b"before").unwrap();
        if result.is_err() {
            assert!(rest.is_empty());
        }
        result.map(|()| serde_json::from_slice(rest).unwrap())
    }

    #[test]
    fn every_column_of_a_booking_is_converted() {
        let header = crate::rides::COLUMNS.join(",");
        let row = "900001,77,12,NULL,2,41,393,NULL,15,1/2/2013 9:30,1/3/2013,0,1,\
                   12/31/2012 23:05,12.924878,77.5,13.19956,77.70688";
        assert_eq!(
            converted("Asia/Kolkata", &header, row).unwrap(),
            json!({
                "id": 900001, "user_id": 77, "vehicle_model_id": 12, "package_id": null,
                "travel_type_id": 2, "from_area_id": 41, "to_area_id": 393, "from_city_id": null,
                "to_city_id": 15, "from_date": "2013-01-02T04:00:00Z",
                "to_date": "2013-01-02T18:30:00Z", "online_booking": false,
                "mobile_site_booking": true, "booking_created": "2012-12-31T17:35:00Z",
                "from_lat": 12.924878, "from_long": 77.5, "to_lat": 13.19956, "to_long": 77.70688,
            })
        );
    }

    #[test]
    fn dates_are_local_unless_they_say_otherwise() {
        let at = |zone: &str, text: &str| {
            converted(zone, "from_date", text).unwrap()["from_date"].clone()
        };
        assert_eq!(at("Asia/Kolkata", "1/1/1970"), "1969-12-31T18:30:00Z");
        assert_eq!(at("UTC", "1/1/2013 0:00"), "2013-01-01T00:00:00Z");
        assert_eq!(at("UTC", "12/31/2013 23:59:58"), "2013-12-31T23:59:58Z");
        assert_eq!(
            at("Europe/Berlin", "2013-07-01 08:00"),
            "2013-07-01T06:00:00Z"
        );
        assert_eq!(at("Europe/Berlin", "2013-07-01"), "2013-06-30T22:00:00Z");
        assert_eq!(
            at("Asia/Kolkata", "2013-07-01T08:00:00.5+02:00"),
            "2013-07-01T06:00:00.5Z"
        );
        for bad in [
            "13/1/2013",
            "1/1/13x",
            "yesterday",
            "2/30/2013 9:00",
            "1/1/2013 24:00",
        ] {
            let fault = converted("UTC", "from_date", bad).unwrap_err();
            assert!(
                fault.contains("from_date") && fault.contains(bad),
                "{fault}"
            );
        }
    }

    #[test]
    fn floats_keep_every_digit() {
        let zone = TimeZone::UTC;
        let converter = Converter::new(["from_lat"].into_iter(), zone).unwrap();
        for (text, want) in [
            ("12.96519", "12.96519"),
            ("77.100000000000001", "77.100000000000001"),
            ("-0.0", "-0.0"),
            ("1e-7", "1e-7"),
            (".5", "0.5"),
            ("+3", "3"),
        ] {
            let mut line = Vec::new();
            converter.convert([text].into_iter(), &mut line).unwrap();
            assert_eq!(
                String::from_utf8(line).unwrap(),
                format!("{{\"from_lat\":{want}}}")
            );
        }
        for bad in ["inf", "NaN", "1,2x", "twelve"] {
            assert!(
                converter
                    .convert([bad].into_iter(), &mut Vec::new())
                    .is_err()
            );
        }
    }

    #[test]
    fn unknown_columns_are_sent_as_they_are() {
        let row = converted(
            "UTC",
            "id,Note,score,Car_Cancellation,userId",
            "1, \"a\" ,1.50,1,9",
        )
        .unwrap();
        assert_eq!(
            row,
            json!({"id": 1, "Note": " \"a\" ", "score": "1.50", "Car_Cancellation": true, "userId": 9})
        );
        assert_eq!(
            converted("UTC", "note,id", ",").unwrap(),
            json!({"note": "", "id": null})
        );
        assert_eq!(
            converted("UTC", "note", "NULL").unwrap(),
            json!({"note": null})
        );
    }

    #[test]
    fn all_faults_of_a_row_are_named() {
        let fault = converted("UTC", "id,online_booking,to_lat", "1x,2,north").unwrap_err();
        for name in ["id \"1x\"", "online_booking \"2\"", "to_lat \"north\""] {
            assert!(fault.contains(name), "{fault}");
        }
        assert!(
            converted("UTC", "id,id", "1,2")
                .unwrap_err()
                .contains("twice")
        );
        assert!(
            converted("UTC", "id,", "1,2")
                .unwrap_err()
                .contains("no name")
        );
    }
}
