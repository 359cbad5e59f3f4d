//! `sqlx::migrate!` embeds the migrations at compile time, but cargo does not know of files that
//! were added since.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
    println!("cargo:rerun-if-changed=build.rs");
}
