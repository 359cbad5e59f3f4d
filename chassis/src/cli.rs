//! Command lines: bad usage exits 64 (`EX_USAGE` of sysexits.h) in every binary.

use std::ffi::OsString;
use std::fmt::Display;
use std::process::exit;

use clap::Parser;

/// Exit code for a command line or configuration that cannot be used.
pub const EXIT_USAGE: i32 = 64;

/// Reads the process's flags and environment.
///
/// Prints and exits instead of returning: with 64 on bad usage, with 0 after `--help` and
/// `--version`.
#[must_use]
pub fn parse<Args: Parser>() -> Args {
    parse_from(std::env::args_os()).unwrap_or_else(|(error, code)| {
        // A closed stdout or stderr must not turn into a panic: the exit code still tells.
        let _ = error.print();
        exit(code)
    })
}

fn parse_from<Args: Parser>(
    words: impl Iterator<Item = OsString>,
) -> Result<Args, (clap::Error, i32)> {
    Args::try_parse_from(words).map_err(|error| {
        let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
        (error, code)
    })
}

/// Prints `error: <message>` to stderr and exits 64: for faults of the configuration found after
/// parsing. Name all of them in one message, one per line.
pub fn exit_usage(message: impl Display) -> ! {
    eprintln!("error: {message}");
    exit(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    #[command(name = "example", version = "1.2.3")]
    struct Example {
        #[arg(long)]
        count: u8,
    }

    fn code_of(words: &[&str]) -> i32 {
        match parse_from::<Example>(words.iter().map(OsString::from)) {
            Ok(example) => panic!("{example:?} was accepted"),
            Err((_, code)) => code,
        }
    }

    #[test]
    fn bad_usage_is_64_and_questions_are_0() {
        assert_eq!(code_of(&["example"]), 64);
        assert_eq!(code_of(&["example", "--count", "x"]), 64);
        assert_eq!(code_of(&["example", "--unknown"]), 64);
        assert_eq!(code_of(&["example", "--help"]), 0);
        assert_eq!(code_of(&["example", "--version"]), 0);
    }

    #[test]
    fn good_usage_is_returned() {
        let words = ["example", "--count", "7"].iter().map(OsString::from);
        assert_eq!(parse_from::<Example>(words).expect("valid").count, 7);
    }
}
