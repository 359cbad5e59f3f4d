//! A recorded file, read and checked whole before anything is sent.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::convert::Converter;
use crate::couriers::model::courier_id;

/// How a recorded file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// A header line, then one ride a line
    Csv,
    /// One JSON object a line, sent as it stands: rides, or with a member `command` commands to
    /// couriers
    Ndjson,
}

/// What some programs write in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Faults named before the rest is only counted.
const FAULTS_SHOWN: usize = 20;

/// The rows, each one line of JSON, all in one buffer: a body of several is a slice of it.
/// In memory, so a file may be as large as memory allows.
#[derive(Debug)]
pub(crate) struct Rows {
    json: Bytes,
    rows: Vec<Row>,
    are_commands: bool,
}

#[derive(Debug)]
struct Row {
    /// Where it stands in the file, from 1.
    line: u64,
    /// Without the line feed that follows.
    json: Range<usize>,
    id: Option<RowId>,
}

/// The resource that a row is about, as the row names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum RowId {
    /// A ride's.
    Ride(i64),
    /// A courier's; an integer as its digits.
    Courier(String),
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ride(id) => write!(f, "ride {id}"),
            Self::Courier(id) => write!(f, "courier {id}"),
        }
    }
}

/// The file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not there, or not readable.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Neither the name nor `--format` says what it is.
    #[error("{} is neither .csv nor .ndjson; say which with --format", .0.display())]
    UnknownFormat(PathBuf),
    /// The header of a CSV file cannot be used.
    #[error("{}: line 1: {fault}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// A sentence.
        fault: String,
    },
    /// Rows cannot be converted; nothing was sent.
    #[error("{} cannot be replayed, nothing was sent:\n{}", .path.display(), list(.faults, *.total))]
    Rows {
        /// The file.
        path: PathBuf,
        /// Line numbers with what is wrong, the first twenty.
        faults: Vec<(u64, String)>,
        /// How many rows are at fault.
        total: u64,
    },
    /// There is not a single row in it.
    #[error("{} holds no row", .0.display())]
    Empty(PathBuf),
}

fn list(faults: &[(u64, String)], total: u64) -> String {
    let mut lines: Vec<_> = faults
        .iter()
        .map(|(line, fault)| format!("  line {line}: {fault}"))
        .collect();
    let more = total - faults.len() as u64;
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines.join("\n")
}

/// What to make of a file.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) format: Option<Format>,
    pub(crate) zone: TimeZone,
    /// Only so many rows from the start.
    pub(crate) limit: Option<u64>,
    /// Every row needs an id: it stands in the URL.
    pub(crate) needs_id: bool,
}

impl Rows {
    /// Reads and converts the file.
    pub(crate) fn read(path: &Path, reading: &Reading) -> Result<Self, FileError> {
        let format = reading
            .format
            .or_else(|| by_extension(path))
            .ok_or_else(|| FileError::UnknownFormat(path.to_owned()))?;
        let text = std::fs::read(path).map_err(|source| FileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let mut gathering = Gathering {
            needs_id: reading.needs_id,
            ..Gathering::default()
        };
        let limit = reading.limit.unwrap_or(u64::MAX);
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        match format {
            Format::Csv => {
                let read = read_csv(text, reading.zone.clone(), limit, &mut gathering);
                read.map_err(|fault| FileError::Header {
                    path: path.to_owned(),
                    fault,
                })?;
            }
            Format::Ndjson => read_ndjson(text, limit, &mut gathering),
        }
        if gathering.faults_total > 0 {
            return Err(FileError::Rows {
                path: path.to_owned(),
                faults: gathering.faults,
                total: gathering.faults_total,
            });
        }
        if gathering.rows.is_empty() {
            return Err(FileError::Empty(path.to_owned()));
        }
        Ok(Self {
            json: gathering.json.into(),
            rows: gathering.rows,
            are_commands: gathering.are_commands == Some(true),
        })
    }

    /// Whether they are commands to couriers; rides otherwise.
    pub(crate) fn are_commands(&self) -> bool {
        self.are_commands
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The line in the file of a row, from 1.
    pub(crate) fn line(&self, row: usize) -> u64 {
        self.rows[row].line
    }

    /// What the row is about, if it names it readably.
    pub(crate) fn id(&self, row: usize) -> Option<&RowId> {
        self.rows[row].id.as_ref()
    }

    /// One row as a JSON object.
    pub(crate) fn object(&self, row: usize) -> Bytes {
        self.json.slice(self.rows[row].json.clone())
    }

    /// Some rows as NDJSON; without copying where they stand side by side.
    pub(crate) fn ndjson(&self, rows: &[usize]) -> Bytes {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Bytes::new();
        };
        if last - first + 1 == rows.len() {
            let range = self.rows[*first].json.start..self.rows[*last].json.end;
            return self.json.slice(range);
        }
        self.joined(rows, b"", b"\n", b"\n")
    }

    /// Some rows as a JSON array.
    pub(crate) fn array(&self, rows: &[usize]) -> Bytes {
        self.joined(rows, b"[", b",", b"]")
    }

    fn joined(&self, rows: &[usize], open: &[u8], between: &[u8], close: &[u8]) -> Bytes {
        let mut body = open.to_vec();
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                body.extend_from_slice(between);
            }
            body.extend_from_slice(&self.json[self.rows[*row].json.clone()]);
        }
        body.extend_from_slice(close);
        body.into()
    }
}

fn by_extension(path: &Path) -> Option<Format> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "csv" => Some(Format::Csv),
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        _ => None,
    }
}

#[derive(Default)]
struct Gathering {
    needs_id: bool,
    /// What the first row is, and all others have to be.
    are_commands: Option<bool>,
    json: Vec<u8>,
    rows: Vec<Row>,
    faults: Vec<(u64, String)>,
    faults_total: u64,
}

impl Gathering {
    fn rows_read(&self) -> u64 {
        self.rows.len() as u64 + self.faults_total
    }

    fn fault(&mut self, line: u64, fault: String) {
        self.faults_total += 1;
        if self.faults.len() < FAULTS_SHOWN {
            self.faults.push((line, fault));
        }
    }

    /// Takes what was appended to `json` since `start` as a row.
    fn row(&mut self, line: u64, start: usize, id: Option<RowId>) {
        if self.needs_id && id.is_none() {
            self.json.truncate(start);
            self.fault(line, "no id, which PUT needs for the URL".into());
            return;
        }
        let json = start..self.json.len();
        self.json.push(b'\n');
        self.rows.push(Row { line, json, id });
    }
}

fn read_csv(
    text: &[u8],
    zone: TimeZone,
    limit: u64,
    gathering: &mut Gathering,
) -> Result<(), String> {
    let mut reader = csv::ReaderBuilder::new().from_reader(text);
    let header = reader.headers().map_err(|error| error.to_string())?;
    if header.is_empty() {
        return Ok(());
    }
    let converter = Converter::new(header.iter(), zone)?;
    let mut record = csv::StringRecord::new();
    while gathering.rows_read() < limit {
        let start = gathering.json.len();
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let line = line_of(text, record.position());
                match converter.convert(record.iter(), &mut gathering.json) {
                    Ok(()) => {
                        let id = converter.id_column().and_then(|at| record.get(at));
                        let id = id.and_then(|text| text.trim().parse().ok());
                        gathering.row(line, start, id.map(RowId::Ride));
                    }
                    Err(fault) => gathering.fault(line, fault),
                }
            }
            Err(error) => {
                let line = line_of(text, error.position());
                gathering.fault(line, csv_fault(&error));
                if error.is_io_error() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The line on which a record begins: the reader's position is where the one before ended, with
/// line feeds and empty lines still to come.
fn line_of(text: &[u8], position: Option<&csv::Position>) -> u64 {
    let Some(position) = position else { return 0 };
    let start = usize::try_from(position.byte()).expect("within memory");
    let skipped = text[start.min(text.len())..]
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .filter(|byte| **byte == b'\n')
        .count();
    position.line() + skipped as u64
}

fn csv_fault(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields, but the header has {expected_len}"),
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".into(),
        _ => error.to_string(),
    }
}

fn read_ndjson(text: &[u8], limit: u64, gathering: &mut Gathering) {
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if gathering.rows_read() >= limit {
            return;
        }
        let number = index as u64 + 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if let Err(error) = serde_json::from_slice::<&serde_json::value::RawValue>(line) {
            gathering.fault(number, format!("not JSON: {error}"));
            continue;
        }
        let (is_command, id) = identify(line);
        if *gathering.are_commands.get_or_insert(is_command) != is_command {
            let what = "rides and commands to couriers go to different routes: one file for each";
            gathering.fault(number, what.to_owned());
            continue;
        }
        if is_command && gathering.needs_id {
            gathering.fault(
                number,
                "a command to a courier is sent with --method post".into(),
            );
            continue;
        }
        let start = gathering.json.len();
        gathering.json.extend_from_slice(line);
        gathering.row(number, start, id);
    }
}

/// Whether a row is a command to a courier, and what it is about, if that can be read; all else
/// is for the API to judge.
fn identify(line: &[u8]) -> (bool, Option<RowId>) {
    #[derive(Deserialize)]
    struct Named {
        id: Option<serde_json::Value>,
        command: Option<serde_json::Value>,
    }
    // An array would do for a struct as well.
    if !line.starts_with(b"{") {
        return (false, None);
    }
    let Ok(named) = serde_json::from_slice::<Named>(line) else {
        return (false, None);
    };
    if named.id.is_none() && named.command.is_some() {
        let command = serde_json::from_slice(line);
        let id = command.ok().and_then(|command| courier_id(&command));
        return (true, id.map(RowId::Courier));
    }
    let id = named.id.and_then(|id| id.as_i64());
    (false, id.map(RowId::Ride))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: impl AsRef<[u8]>, needs_id: bool) -> Result<Rows, FileError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let reading = Reading {
            format: None,
            zone: TimeZone::UTC,
            limit: None,
            needs_id,
        };
        Rows::read(&path, &reading)
    }

    #[test]
    fn rows_become_bodies() {
        let rows = read("x.csv", "id,user_id\r\n1,7\n2,8\n\n3,9\n", true).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!((rows.line(2), rows.id(2)), (5, Some(&RowId::Ride(3))));
        assert_eq!(rows.object(1), r#"{"id":2,"user_id":8}"#);
        assert_eq!(
            rows.ndjson(&[0, 1]),
            "{\"id\":1,\"user_id\":7}\n{\"id\":2,\"user_id\":8}"
        );
        assert_eq!(
            rows.ndjson(&[0, 2]),
            "{\"id\":1,\"user_id\":7}\n{\"id\":3,\"user_id\":9}\n"
        );
        assert_eq!(
            rows.array(&[0, 2]),
            r#"[{"id":1,"user_id":7},{"id":3,"user_id":9}]"#
        );
    }

    #[test]
    fn ndjson_lines_are_sent_as_they_stand() {
        let rows = read(
            "x.NDJSON",
            "{\"id\": 1, \"x\":1.50}\r\n\n[1]\n \"\\ud800\" ",
            false,
        )
        .unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows.object(0), r#"{"id": 1, "x":1.50}"#);
        assert_eq!((rows.line(1), rows.id(1)), (3, None));
        assert_eq!((rows.id(0), rows.line(2)), (Some(&RowId::Ride(1)), 4));
        assert!(!rows.are_commands());
    }

    #[test]
    fn commands_to_couriers_are_told_from_rides() {
        let text = "{\"command\":\"delete\",\"courier_id\":7}\n\
                    {\"courierId\":\"x\",\"command\":\"delete\"}\n{\"command\":1}\n";
        let rows = read("x.jsonl", text, false).unwrap();
        assert!(rows.are_commands());
        let ids: Vec<_> = (0..3).map(|row| rows.id(row).cloned()).collect();
        let courier = |id: &str| Some(RowId::Courier(id.to_owned()));
        assert_eq!(ids, [courier("7"), courier("x"), None]);
        let error = read("x.ndjson", text, true).unwrap_err().to_string();
        assert!(error.contains("line 1: a command to a courier"), "{error}");
        // What a ride calls its own is the ride's.
        let rides = "{\"id\":1,\"command\":\"go\"}\n{\"id\":2}\n";
        assert!(!read("x.ndjson", rides, true).unwrap().are_commands());
        let both = format!("{rides}{text}");
        let error = read("x.ndjson", both, false).unwrap_err().to_string();
        assert!(error.contains("line 3: rides and commands"), "{error}");
    }

    #[test]
    fn rows_that_cannot_be_converted_are_named_by_line() {
        let text = "id,from_date\n1,1/1/2013\nx,1/1/2013\n3\n4,never\n5,1/1/2013\n";
        let error = read("x.csv", text, false).unwrap_err().to_string();
        for part in [
            "line 3: id",
            "line 4: 1 fields",
            "line 5: from_date",
            "nothing was sent",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let error = read("x.ndjson", "{}\n{\n", true).unwrap_err().to_string();
        for part in ["line 1: no id", "line 2: not JSON"] {
            assert!(error.contains(part), "{error}");
        }
        let error = read("x.csv", b"id,note\n1,\xff\n2,x\n", false).unwrap_err();
        assert!(error.to_string().contains("line 2: not UTF-8"), "{error}");
        let many = "x\n".repeat(50);
        let error = read("x.ndjson", many, false).unwrap_err().to_string();
        assert!(error.contains("and 30 more"), "{error}");
    }

    #[test]
    fn a_file_without_rows_or_kind_is_refused() {
        assert!(matches!(read("x.csv", "", false), Err(FileError::Empty(_))));
        assert!(matches!(
            read("x.csv", "id\n", false),
            Err(FileError::Empty(_))
        ));
        assert!(matches!(
            read("x.ndjson", "\n \n", false),
            Err(FileError::Empty(_))
        ));
        assert!(matches!(
            read("x.txt", "{}", false),
            Err(FileError::UnknownFormat(_))
        ));
        assert!(matches!(
            read("x.csv", "id,id\n1,2\n", false),
            Err(FileError::Header { .. })
        ));
    }

    #[test]
    fn the_limit_counts_rows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.csv");
        std::fs::write(&path, "id\n1\n2\nbad\n").unwrap();
        let reading = Reading {
            format: Some(Format::Csv),
            zone: TimeZone::UTC,
            limit: Some(2),
            needs_id: false,
        };
        assert_eq!(Rows::read(&path, &reading).unwrap().len(), 2);
    }

    /// Where real bookings lie beside the checkout, all of them must convert.
    #[test]
    fn real_bookings_convert_where_they_are_at_hand() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/bookings.csv");
        if !path.exists() {
            return;
        }
        let reading = Reading {
            format: None,
            zone: TimeZone::get("Asia/Kolkata").unwrap(),
            limit: None,
            needs_id: true,
        };
        let rows = Rows::read(&path, &reading).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(rows.len(), text.lines().count() - 1);
        for (row, line) in text.lines().skip(1).enumerate() {
            let object: serde_json::Value = serde_json::from_slice(&rows.object(row)).unwrap();
            assert_eq!(
                object.as_object().unwrap().len(),
                crate::rides::COLUMNS.len()
            );
            for (name, field) in crate::rides::COLUMNS.iter().zip(line.split(',')) {
                let value = &object[*name];
                match field {
                    "NULL" => assert!(value.is_null(), "{line}"),
                    _ if value.is_f64() => assert_eq!(value.as_f64(), field.parse().ok(), "{line}"),
                    _ if value.is_boolean() => assert_eq!(value == true, field == "1", "{line}"),
                    _ if value.is_i64() => assert_eq!(value.to_string(), field, "{line}"),
                    _ => assert!(value.as_str().unwrap().ends_with(":00Z"), "{line}"),
                }
            }
        }
    }
}
