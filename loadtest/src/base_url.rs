//! Where a service is: `http://host:port`, with a path in front of its routes if a proxy adds one.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// A service's base URL. Plain HTTP only: the harness stands beside the services.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BaseUrl {
    address: String,
    authority: String,
    prefix: String,
}

impl BaseUrl {
    /// `host:port` to connect to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the `Host` header says.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request target of `route`, which begins with `/`.
    #[must_use]
    pub fn target(&self, route: &str) -> String {
        format!("{}{route}", self.prefix)
    }
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HINT: &str = "write it like http://127.0.0.1:8080";
        let uri: Uri = text.parse().map_err(|error| format!("{error}; {HINT}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(other) => return Err(format!("{other} is not supported, only http; {HINT}")),
            None => return Err(format!("no scheme; {HINT}")),
        }
        if uri.query().is_some() {
            return Err(format!("a query makes no sense here; {HINT}"));
        }
        let authority = uri.authority().ok_or_else(|| format!("no host; {HINT}"))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(format!("no plain host; {HINT}"));
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            address: format!("{}:{port}", authority.host()),
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_gives_address_host_and_targets() {
        let url: BaseUrl = "http://127.0.0.1:8080/".parse().unwrap();
        assert_eq!(url.address(), "127.0.0.1:8080");
        assert_eq!(url.target("/v1/rides"), "/v1/rides");
        assert_eq!(url.to_string(), "http://127.0.0.1:8080");

        let url: BaseUrl = "http://example.test/weir/".parse().unwrap();
        assert_eq!(url.address(), "example.test:80");
        assert_eq!(url.authority(), "example.test");
        assert_eq!(url.target("/v1/rides"), "/weir/v1/rides");

        let url: BaseUrl = "http://[::1]:9".parse().unwrap();
        assert_eq!(url.address(), "[::1]:9");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for text in [
            "",
            "127.0.0.1:8080",
            "https://x",
            "http://",
            "http://a?b=c",
            "http://u:p@h/",
            "/v1",
        ] {
            assert!(text.parse::<BaseUrl>().is_err(), "{text:?} was accepted");
        }
    }
}
