//! What a newcomer needs to go on: URLs, the key, a line to paste.

use std::path::Path;

use devstack::stack::Endpoints;

use super::sample;

/// The text, without a line break at its end.
pub(super) fn text(endpoints: &Endpoints, logs: &Path, tracking_id: Option<&str>) -> String {
    let partner = &endpoints.partners[0];
    let key = &partner.api_key;
    let gateway = &endpoints.gateway[0];
    let ride = sample::ride(0, sample::fresh_id() + 1_000);
    let mut text = format!(
        "\n  gateway     {}\n  status      {}\n  admin       {}\n  log         {}\n  \
         database    {}\n  logs        {}\n  key         {key}  (partner {})\n\n\
         Post a ride:\n\n\
         curl -i {gateway}/v1/rides -H 'Authorization: Bearer {key}' \
         -H 'Content-Type: application/json' -d '{ride}'\n",
        endpoints.gateway.join("  "),
        endpoints.status.join("  "),
        admin(endpoints),
        endpoints.nats_url,
        endpoints.database_url,
        logs.display(),
        partner.name,
    );
    if let Some(tracking_id) = tracking_id {
        let status = &endpoints.status[0];
        text.push_str(&format!(
            "\nAsk what became of a request:\n\n\
             curl -s '{status}/v1/requests/{tracking_id}?wait=5s' \
             -H 'Authorization: Bearer {key}'\n"
        ));
    }
    text
}

fn admin(endpoints: &Endpoints) -> String {
    let admin = &endpoints.admin;
    let all = [&admin.gateway, &admin.worker, &admin.status];
    let urls: Vec<&str> = all.into_iter().flatten().map(String::as_str).collect();
    urls.join("  ")
}

#[cfg(test)]
mod tests {
    use devstack::stack::{AdminEndpoints, DevelopmentPartner, Pids};

    use super::*;

    #[test]
    fn the_curl_line_is_one_line_that_a_shell_can_read() {
        let endpoints = Endpoints {
            gateway: vec!["http://127.0.0.1:8080".to_owned()],
            status: vec!["http://127.0.0.1:8081".to_owned()],
            admin: AdminEndpoints::default(),
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            database_url: "postgres://weir:secret@127.0.0.1:5432/weir".to_owned(),
            partners: vec![DevelopmentPartner {
                id: 1,
                name: "xrides".to_owned(),
                api_key: "weir_dev_1".to_owned(),
            }],
            pids: Pids::default(),
        };
        let text = text(&endpoints, Path::new("/tmp/logs"), Some("019a"));
        let curl = text
            .lines()
            .find(|line| line.starts_with("curl -i"))
            .unwrap();
        // Two headers and a body, each in one pair of quotes that nothing inside ends.
        assert_eq!(curl.matches('\'').count(), 6);
        let body = curl.split('\'').nth(5).unwrap();
        let ride: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(ride["id"].as_u64().unwrap() > 1_600_000_000_000);
    }
}
