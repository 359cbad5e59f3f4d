//! The key in an `Authorization` header (RFC 9110, section 11.6.2).

use std::borrow::Cow;

/// Longest header value that is looked at, in bytes; a key has 73.
const HEADER_BYTES_MAX: usize = 1024;

/// The key that a header value presents: `Bearer KEY` (RFC 6750), or `Basic` with the key as user
/// name and any password (RFC 7617). The scheme's case does not matter.
///
/// None when there is no header, or it has another scheme or another form, or is too long.
#[must_use]
pub fn key<'a, H: AsRef<[u8]> + ?Sized>(header: Option<&'a H>) -> Option<Cow<'a, str>> {
    let header = header?.as_ref();
    if header.len() > HEADER_BYTES_MAX {
        return None;
    }
    let header = std::str::from_utf8(header).ok()?;
    let (scheme, rest) = header.trim().split_once(' ')?;
    let rest = rest.trim_start();
    if scheme.eq_ignore_ascii_case("bearer") {
        (!rest.is_empty() && !rest.contains(' ')).then_some(Cow::Borrowed(rest))
    } else if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(base64(rest.as_bytes())?).ok()?;
        let (user, _password) = decoded.split_once(':')?;
        (!user.is_empty()).then(|| Cow::Owned(user.to_owned()))
    } else {
        None
    }
}

/// Decodes standard base64 (RFC 4648, section 4), padded or not; none if it is not that.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let padded_right = padding == 0 || (padding <= 2 && text.len().is_multiple_of(4));
    if !padded_right || digits.len() % 4 == 1 {
        return None;
    }
    let mut decoded = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            bits = bits << 6 | u32::from(sextet(*digit)?);
        }
        // A short last group is filled up with zero bits.
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        decoded.extend_from_slice(&bytes[1..group.len()]);
    }
    Some(decoded)
}

fn sextet(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(header: &str) -> Option<String> {
        key(Some(header)).map(Cow::into_owned)
    }

    #[test]
    fn bearer() {
        assert_eq!(of("Bearer weir_1"), Some("weir_1".into()));
        assert_eq!(of("bEARER   weir_1 "), Some("weir_1".into()));
        assert_eq!(of("Bearer "), None);
        assert_eq!(of("Bearer"), None);
        assert_eq!(of("Bearer a b"), None);
    }

    #[test]
    fn basic_with_the_key_as_user_name() {
        // RFC 7617's example: Aladdin:open sesame.
        assert_eq!(
            of("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            Some("Aladdin".into())
        );
        assert_eq!(
            of("basic QWxhZGRpbjpvcGVuIHNlc2FtZQ"),
            Some("Aladdin".into())
        );
        assert_eq!(of("Basic a2V5Og=="), Some("key".into()));
        assert_eq!(of("Basic a2V5"), None, "no colon");
        assert_eq!(of("Basic OnB3"), None, "no user name");
        assert_eq!(of("Basic a2V5Og="), None, "wrong padding");
        assert_eq!(of("Basic a2V5Ogx?"), None);
        assert_eq!(of("Basic /////w=="), None, "not UTF-8");
    }

    #[test]
    fn anything_else_is_no_key() {
        assert_eq!(key::<str>(None), None);
        assert_eq!(of(""), None);
        assert_eq!(of("weir_1"), None);
        assert_eq!(of("Digest a=b"), None);
        assert_eq!(key(Some(&b"Bearer \xff"[..])), None);
        assert_eq!(of(&format!("Bearer {}", "a".repeat(2_000))), None);
    }

    #[test]
    fn base64_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
        ];
        for (text, plain) in vectors {
            assert_eq!(base64(text.as_bytes()).expect(text), plain.as_bytes());
        }
        for text in ["Z", "Zg=", "Zg===", "====", "Z=g="] {
            assert_eq!(base64(text.as_bytes()), None, "{text}");
        }
    }
}
