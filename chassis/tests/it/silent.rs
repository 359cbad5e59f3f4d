//! Clients that connect and never ask.

use std::time::Duration;

use chassis::http::Limits;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::transport::{exchange, limits, serve};

/// Whichever bound ends them, and however far they got: hyper's on a head is as long as the one on
/// the first request.
#[tokio::test]
async fn clients_that_never_ask_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    // Of this thread, which serves as well.
    let _counting = metrics::set_default_local_recorder(&recorder);
    for (metrics_prefix, cleartext_http2) in [("both", true), ("one", false)] {
        let hasty = Limits {
            headers_timeout: Duration::from_millis(200),
            cleartext_http2,
            ..limits(metrics_prefix)
        };
        let served = serve(hasty, None).await;
        for beginning in ["", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\na: b"] {
            assert_eq!(exchange(served.address, beginning).await, "");
        }
        let asked = exchange(served.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(asked.ends_with("hello"), "{asked}");
        let counted =
            format!("{metrics_prefix}_connections_cut_off_total{{reason=\"silent\"}} 4\n");
        assert!(shown.render().contains(&counted), "{}", shown.render());
    }
}
