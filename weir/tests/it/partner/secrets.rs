//! Keys are shown once, and nowhere else.

use serde_json::json;

use super::installation::{Installation, LIMIT, NOT_THERE, POSTED, ride};

/// Every route of both services, with a good key and one that nobody has, where they belong and
/// where they do not: neither answers nor logs, in every detail, may hold one.
#[tokio::test(flavor = "multi_thread")]
async fn keys_appear_in_no_answer_and_no_log() {
    let weir = Installation::start(|config| {
        config.gateway_flags = vec!["--log-level=trace".into()];
        config.status_flags = vec!["--log-level=trace".into()];
    })
    .await;
    let (good, _) = weir.add(&["demo"]).await;
    weir.until(LIMIT, &good, POSTED, NOT_THERE).await;
    let nobodys = good.replace("weir_live_", "weir_live_0");
    let routes = [
        ("POST", weir.gateway("/v1/rides")),
        ("PUT", weir.gateway("/v1/rides/1")),
        ("POST", weir.gateway("/save/booking/detail")),
        ("GET", weir.gateway("/openapi.json")),
        ("DELETE", weir.gateway("/v1/rides")),
        ("GET", weir.gateway("/v1/nowhere")),
        ("GET", weir.status("/v1/requests/x")),
        ("POST", weir.status("/v1/requests/lookup")),
        ("GET", weir.status("/v1/requests")),
        ("GET", weir.status("/v1/rides/1")),
        ("GET", weir.status("/openapi.json")),
        ("DELETE", weir.status("/v1/rides/1")),
    ];
    let mut asked = 0;
    for key in [&good, &nobodys] {
        let secret = key.rsplit('_').next().unwrap();
        for (method, url) in &routes {
            for (name, request, body) in with_key_everywhere(method, url, &good, key) {
                let answer = weir.send(request, &body).await;
                asked += 1;
                assert!(
                    !answer.whole.contains(secret),
                    "{method} {url}, key in {name}: {}",
                    answer.whole
                );
            }
        }
    }
    assert!(asked > 200, "{asked}");
    let logs = weir.stack.logs().to_path_buf();
    let (_, files) = weir.stack.shutdown().await;
    let mut read = 0;
    for entry in std::fs::read_dir(logs).unwrap() {
        let path = entry.unwrap().path();
        let log = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        read += log.len();
        for key in [&good, &nobodys] {
            let secret = key.rsplit('_').next().unwrap();
            let found = log.lines().find(|line| line.contains(secret));
            assert_eq!(found, None, "{}", path.display());
        }
    }
    assert!(read > 0, "there are logs");
    drop(files);
}

/// (Where the key is, the request, its body); the good key where another place is tried, so that the
/// request gets as far as that place.
fn with_key_everywhere(
    method: &str,
    url: &str,
    good: &str,
    key: &str,
) -> Vec<(&'static str, http::request::Builder, String)> {
    let bare = |url: &str| http::Request::builder().method(method).uri(url);
    let known = |url: &str| bare(url).header("authorization", format!("Bearer {good}"));
    let basic = |plain: String| format!("Basic {}", base64(plain.as_bytes()));
    let of = |value: String| bare(url).header("authorization", value);
    let with_id = ride()
        .to_string()
        .replace("\"id\":1", &format!("\"id\":\"{key}\""));
    vec![
        ("bearer", of(format!("Bearer {key}")), ride().to_string()),
        ("no scheme", of(key.to_owned()), String::new()),
        ("another scheme", of(format!("Digest {key}")), String::new()),
        (
            "bearer twice",
            of(format!("Bearer {key} {key}")),
            String::new(),
        ),
        (
            "user name",
            of(basic(format!("{key}:"))),
            ride().to_string(),
        ),
        ("password", of(basic(format!("weir:{key}"))), String::new()),
        (
            "query",
            known(&format!(
                "{url}?api_key={key}&cursor={key}&since={key}&wait={key}&status={key}&limit={key}"
            )),
            ride().to_string(),
        ),
        ("path", known(&format!("{url}/{key}")), ride().to_string()),
        (
            "another header",
            known(url).header("x-api-key", key),
            ride().to_string(),
        ),
        (
            "content type",
            known(url).header("content-type", key),
            ride().to_string(),
        ),
        (
            "encoding",
            known(url).header("content-encoding", key),
            ride().to_string(),
        ),
        ("member", known(url), with_id),
        (
            "member name",
            known(url),
            json!({ key: 1, "tracking_ids": key }).to_string(),
        ),
        ("body", known(url), key.to_owned()),
        (
            "lookup",
            known(url),
            json!({ "tracking_ids": [1, { key: key }] }).to_string(),
        ),
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = 0_u32;
        for index in 0..3 {
            bits = bits << 8 | u32::from(group.get(index).copied().unwrap_or(0));
        }
        for digit in 0..=group.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS[index as usize]));
        }
    }
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}
