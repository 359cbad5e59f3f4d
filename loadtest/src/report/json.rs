//! A report as text: written with one second to a line, read again by this and later versions.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize as _};
use serde_json::ser::{Formatter, Serializer};

use super::schema::{RunReport, SCHEMA, SCHEMA_VERSION};

/// A report could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such file, or no permission.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Not JSON, or not of this shape.
    #[error("{} is not the JSON of a loadtest run: {source}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// JSON of something else.
    #[error("{} holds `{found}`, not `{SCHEMA}`", .path.display())]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: String,
    },
    /// Written by another version of this program.
    #[error("{} has schema version {found}; this program reads {SCHEMA_VERSION}", .path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// What stands at the head of every report, whatever its version.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    schema: String,
    #[serde(default)]
    schema_version: u32,
}

impl RunReport {
    /// What `--json` writes, with a line end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut text, Layers::default());
        self.serialize(&mut serializer)
            .expect("a report has string keys, and memory does not fail to be written");
        text.push(b'\n');
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    /// Reads what `--json` wrote.
    ///
    /// # Errors
    /// When the file cannot be read, or is something else, or of a version unknown here.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let path = path.to_owned();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(source) => return Err(ReadError::Unreadable { path, source }),
        };
        let head: Head = match serde_json::from_slice(&text) {
            Ok(head) => head,
            Err(source) => return Err(ReadError::Malformed { path, source }),
        };
        if head.schema != SCHEMA {
            let found = head.schema;
            return Err(ReadError::OtherSchema { path, found });
        }
        if head.schema_version != SCHEMA_VERSION {
            let found = head.schema_version;
            return Err(ReadError::OtherVersion { path, found });
        }
        serde_json::from_slice(&text).map_err(|source| ReadError::Malformed { path, source })
    }
}

/// How deep members stand on lines of their own.
const LAYERS: usize = 2;

/// Breaks lines in the outer layers only: a second, an objective, a distribution is one line, so
/// that a long run stays readable to people, `grep` and `diff`.
#[derive(Default)]
struct Layers {
    depth: usize,
    has_value: bool,
}

impl Layers {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value && self.depth < LAYERS {
            self.break_line(writer)?;
        }
        self.has_value = true;
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        if self.depth <= LAYERS {
            self.break_line(writer)?;
        } else if !first {
            writer.write_all(b" ")?;
        }
        Ok(())
    }

    fn break_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(b"  "))
    }
}

impl Formatter for Layers {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::report::sample;

    /// What version 1 looked like when it was new; never to be changed.
    const RUN_V1: &str = include_str!("../../tests/samples/run-v1.json");

    #[test]
    fn a_report_survives_its_own_json() {
        let report = sample::run();
        let again: RunReport = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(again, report);
        let nothing = RunReport::default();
        let again: RunReport = serde_json::from_str(&nothing.to_json()).unwrap();
        assert_eq!(again, nothing);
    }

    #[test]
    fn one_second_is_one_line() {
        let report = sample::run();
        let text = report.to_json();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("    {\"second\": "));
        assert_eq!(lines.count(), report.series.len());
        assert!(text.starts_with("{\n  \"schema\": \"weir.loadtest.run\",\n"));
        assert!(text.ends_with("\n  ]\n}\n"));
    }

    #[test]
    fn the_first_version_is_read_in_full() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/run-v1.json");
        let report = RunReport::read(&path).unwrap();
        assert_eq!(report.counts.sent, 200_000);
        assert_eq!(report.series.len(), 40);
        // Whatever it said is still said, by the same name and with the same value.
        let then: Value = serde_json::from_str(RUN_V1).unwrap();
        let now = serde_json::to_value(&report).unwrap();
        assert_contains(&now, &then, "");
    }

    fn assert_contains(now: &Value, then: &Value, at: &str) {
        match (now, then) {
            (Value::Object(now), Value::Object(then)) => {
                for (key, value) in then {
                    let at = format!("{at}/{key}");
                    assert_contains(now.get(key).unwrap_or(&Value::Null), value, &at);
                }
            }
            (Value::Array(now), Value::Array(then)) => {
                assert_eq!(now.len(), then.len(), "{at}");
                for (index, (now, then)) in now.iter().zip(then).enumerate() {
                    assert_contains(now, then, &format!("{at}/{index}"));
                }
            }
            (Value::Number(now), Value::Number(then)) => {
                assert_eq!(now.as_f64(), then.as_f64(), "{at}");
            }
            _ => assert_eq!(now, then, "{at}"),
        }
    }

    #[test]
    fn what_is_no_report_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            RunReport::read(&path).unwrap_err()
        };
        assert!(matches!(read("{"), ReadError::Malformed { .. }));
        assert!(matches!(read("7"), ReadError::Malformed { .. }));
        assert!(matches!(read("{}"), ReadError::OtherSchema { .. }));
        assert!(matches!(
            read(r#"{"schema":"weir.loadtest.replay","schema_version":1}"#),
            ReadError::OtherSchema { .. }
        ));
        assert!(matches!(
            read(r#"{"schema":"weir.loadtest.run","schema_version":2}"#),
            ReadError::OtherVersion { found: 2, .. }
        ));
        assert!(matches!(
            read(r#"{"schema":"weir.loadtest.run","schema_version":1}"#),
            ReadError::Malformed { .. }
        ));
        let missing = RunReport::read(&directory.path().join("b.json")).unwrap_err();
        assert!(missing.to_string().contains("b.json"), "{missing}");
    }
}
