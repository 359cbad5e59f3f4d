//! Writes the synthetic recorded file of the repository to stdout:
//! `cargo run -p loadtest --example sample > loadtest/samples/bookings.csv`

fn main() {
    print!("{}", loadtest::rides::sample_csv(500, 2013));
}
