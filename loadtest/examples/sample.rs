//! Writes the synthetic recorded files of the repository to stdout:
//! `cargo run -p loadtest --example sample > loadtest/samples/bookings.csv` and
//! `cargo run -p loadtest --example sample couriers > loadtest/samples/courier-commands.ndjson`

fn main() {
    if std::env::args().nth(1).as_deref() == Some("couriers") {
        print!("{}", loadtest::couriers::sample_ndjson());
    } else {
        print!("{}", loadtest::rides::sample_csv(500, 2013));
    }
}
