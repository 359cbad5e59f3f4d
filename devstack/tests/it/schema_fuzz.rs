//! The OpenAPI documents are true: whatever schemathesis makes of them, every answer of the running
//! services is one that they describe.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use devstack::workspace;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{System, ride};

/// Requests made up per operation and phase: what all documents together take is a minute or two.
const EXAMPLES_MAX: &str = "20";

/// Longer than a read may wait for an outcome, which is 30 s.
const REQUEST_TIMEOUT_SECONDS: &str = "40";

/// Longest that one document may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is held against every answer. Not `not_a_server_error`: a 503 is an honest answer where
/// the document has it, and a 500 is in none.
const CHECKS: &str = "status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,\
                      missing_required_header,unsupported_method,ignored_auth,\
                      negative_data_rejection,allow_header_conformance";

const HOOKS_MODULE: &str = "weir_hooks";

/// A body past its bound is refused by 413, which schemathesis does not take for a refusal.
const CONFIG: &str = r#"
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"#;

/// Lines are one text in the documents, and are sent as they are made up.
const HOOKS: &str = r#"
import json
import schemathesis

@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(ctx, value):
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.encode("utf-8", "surrogatepass")
"#;

/// Where `.ci/schemathesis` installs it.
fn schemathesis() -> PathBuf {
    let deps = workspace::state_directory()
        .expect("the current directory can be read")
        .join("deps");
    let entries = std::fs::read_dir(&deps).expect("fetched servers");
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin/st").is_file())
        .collect();
    found.sort();
    found.pop().expect("schemathesis: run .ci/schemathesis")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis; .ci/run installs it and runs this by name"]
async fn every_answer_is_one_that_the_documents_describe() {
    let system = System::start(|_| {}).await;
    // Something to be found, and a tracking id that has an outcome.
    let accepted = system.post("/v1/rides", ride(1).to_string()).await;
    let id = accepted.json["tracking_id"]
        .as_str()
        .expect("a tracking id");
    system.settled(id).await;

    let of_gateway = system.get_document(&system.gateway("")).await;
    let of_status = system.get_document(&system.status("")).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, document, base) in [
        (
            "gateway",
            answered_by(&of_gateway, "ingest-gateway"),
            system.gateway(""),
        ),
        (
            "reads",
            answered_by(&of_gateway, "status-api"),
            system.status(""),
        ),
        ("status", of_status, system.status("")),
    ] {
        let file = directory.path().join(format!("{name}.json"));
        std::fs::write(&file, document.to_string()).expect("written");
        fuzz(&file, &base, &system.key(0)).await;
    }

    // Nobody went down, and what was accepted in between is served.
    let accepted = system.post("/v1/rides", ride(2).to_string()).await;
    let id = accepted.json["tracking_id"]
        .as_str()
        .expect("a tracking id");
    assert_eq!(system.settled(id).await["status"], "persisted");
}

impl System {
    async fn get_document(&self, base: &str) -> Value {
        let url = format!("{base}/openapi.json");
        self.send("GET", &url, None, "", "").await.json
    }
}

/// The operations of a document that one of its servers answers.
fn answered_by(document: &Value, server: &str) -> Value {
    let mut document = document.clone();
    let servers = document["servers"].take();
    let names = |servers: &Value| {
        let servers = servers.as_array().expect("servers");
        servers.iter().any(|it| it["description"] == server)
    };
    let paths = document["paths"].as_object_mut().expect("paths");
    for item in paths.values_mut() {
        let item = item.as_object_mut().expect("a path item");
        let of_path = item.remove("servers").unwrap_or_else(|| servers.clone());
        item.retain(|method, operation| {
            method == "parameters" || names(operation.get("servers").unwrap_or(&of_path))
        });
    }
    document["servers"] = json!([]);
    document
}

async fn fuzz(document: &Path, base: &str, key: &str) {
    let home = schemathesis();
    let directory = document.parent().expect("a directory");
    let hooks = directory.join(format!("{HOOKS_MODULE}.py"));
    std::fs::write(hooks, HOOKS).expect("written");
    std::fs::write(directory.join("schemathesis.toml"), CONFIG).expect("written");
    let path = std::env::join_paths([home.as_path(), directory]).expect("no colon in them");
    let run = Command::new("python3")
        .arg(home.join("bin/st"))
        .arg("run")
        .arg(document)
        .args([
            "--url",
            base,
            "--header",
            &format!("Authorization: Bearer {key}"),
        ])
        .args(["--phases", "examples,coverage,fuzzing", "--checks", CHECKS])
        .args(["--max-examples", EXAMPLES_MAX, "--seed", "1", "--no-shrink"])
        .args(["--request-timeout", REQUEST_TIMEOUT_SECONDS])
        .args([
            "--suppress-health-check",
            "all",
            "--continue-on-failure",
            "--workers",
            "1",
        ])
        .args(["--warnings", "off", "--no-color"])
        .env("PYTHONPATH", &path)
        .env("SCHEMATHESIS_HOOKS", HOOKS_MODULE)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // It keeps what it found beside itself.
        .current_dir(directory)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("in time")
        .expect("python3 runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} at {base}:\n{told}\n{complaint}",
        document.display()
    );
    println!("{told}");
}
