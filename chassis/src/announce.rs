//! The one line a process prints on stdout: the sockets it has bound.

use std::io::{self, Write as _};
use std::net::SocketAddr;

/// Prints one line of JSON, for example `{"listening":"127.0.0.1:8080","admin":"127.0.0.1:9080"}`.
///
/// Call it once, when every socket is bound. Nothing else goes to stdout: whoever started the
/// process with port 0 reads its ports here.
///
/// # Errors
/// When stdout is closed; serving can go on without it.
pub fn announce(sockets: &[(&str, SocketAddr)]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", line(sockets))?;
    stdout.flush()
}

/// In the order given, which a map would not keep.
fn line(sockets: &[(&str, SocketAddr)]) -> String {
    let members = sockets
        .iter()
        .map(|(name, address)| format!("{name:?}:\"{address}\""));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_json_in_order() {
        let listening = "127.0.0.1:8080".parse().expect("an address");
        let admin = "[::1]:9080".parse().expect("an address");
        let line = line(&[("listening", listening), ("admin", admin)]);
        assert_eq!(
            line,
            r#"{"listening":"127.0.0.1:8080","admin":"[::1]:9080"}"#
        );
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON");
    }
}
