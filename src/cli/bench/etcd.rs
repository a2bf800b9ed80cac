//! The same keys and values against etcd, for comparison: its v3 API as JSON over HTTP/1.1, which
//! every etcd serves beside gRPC. (The gateway is a part of the price: it calls the node's own gRPC.)

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::runner::Job;
use super::wire::Answer;
use super::workload::{Keys, Workload};
use super::{BenchArgs, measure};
use crate::cli::exit::Failure;

/// What is asked of etcd.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    /// A linearizable read.
    Get,
    /// A write.
    Put,
    /// A write if the key is absent; else a read.
    Create,
    /// A write if the key was last changed at this revision; else a read.
    Replace(&'a str),
}

/// `henge bench --etcd`.
pub async fn bench(args: BenchArgs, json: bool) -> Result<(), Failure> {
    let (workload, loaded) = (args.workload, args.workload.brings_its_own());
    if !matches!(workload, Workload::Read | Workload::Insert | Workload::Create | Workload::Cas) {
        return Err(Failure::usage(
            "against etcd there are the workloads read, insert, create, cas",
        ));
    }
    let job = Job {
        authorities: args.etcd.clone(),
        keys: Keys::new(args.records, args.seed),
        args,
        cursors: Vec::new(),
        read_first: false,
        level: None,
        credentials: None,
    };
    measure(&job, loaded, json).await
}

/// Writes the request over `out`.
pub fn request(out: &mut Vec<u8>, key: &[u8], value: &[u8], call: &Call<'_>) {
    let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
    let compared = |test: String| {
        let done = format!("{{\"requestPut\":{{\"key\":\"{key}\",\"value\":\"{value}\"}}}}");
        let seen = format!("{{\"requestRange\":{{\"key\":\"{key}\"}}}}");
        format!(
            "{{\"compare\":[{{\"key\":\"{key}\",\"result\":\"EQUAL\",{test}}}],\
             \"success\":[{done}],\"failure\":[{seen}]}}"
        )
    };
    let (path, body) = match call {
        Call::Get => ("range", format!("{{\"key\":\"{key}\"}}")),
        Call::Put => ("put", format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}")),
        Call::Create => {
            ("txn", compared("\"target\":\"CREATE\",\"create_revision\":\"0\"".to_owned()))
        }
        Call::Replace(revision) => {
            ("txn", compared(format!("\"target\":\"MOD\",\"mod_revision\":\"{revision}\"")))
        }
    };
    out.clear();
    let length = body.len();
    let head =
        format!("POST /v3/kv/{path} HTTP/1.1\r\nhost: etcd\r\ncontent-length: {length}\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body.as_bytes());
}

/// What etcd said, as Henge would have: 412 if a condition did not hold, and the key's revision.
pub fn answer(call: &Call<'_>, mut answer: Answer) -> Answer {
    let body = answer.kept.take().unwrap_or_default();
    let number = |name: &str| {
        let rest = &body[body.rfind(name)? + name.len()..];
        Some(rest[..rest.find('"')?].to_owned())
    };
    if matches!(call, Call::Create | Call::Replace(_)) && answer.status == 200 {
        let took_effect = body.contains("\"succeeded\":true");
        answer.status = if took_effect { 200 } else { 412 };
        answer.kept = number("\"mod_revision\":\"").or_else(|| number("\"revision\":\""));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_tells_whether_it_took_effect_and_the_revision_that_stands() {
        let said = |body: &str| Answer {
            status: 200,
            kept: Some(body.to_owned()),
            problem: None,
            closes: false,
        };
        let done = "{\"header\":{\"cluster_id\":\"1\",\"revision\":\"12\",\"raft_term\":\"2\"},\
                    \"succeeded\":true,\"responses\":[{\"response_put\":{\"header\":{\"revision\":\"12\"}}}]}";
        let done = answer(&Call::Create, said(done));
        assert_eq!((done.status, done.kept.as_deref()), (200, Some("12")));
        let not = "{\"header\":{\"revision\":\"19\"},\"responses\":[{\"response_range\":{\"kvs\":[\
                   {\"key\":\"eA==\",\"create_revision\":\"3\",\"mod_revision\":\"17\",\"version\":\"1\"}]}}]}";
        let not = answer(&Call::Replace("12"), said(not));
        assert_eq!((not.status, not.kept.as_deref()), (412, Some("17")));
    }

    #[test]
    fn a_request_is_json_of_the_length_that_it_says() {
        let mut out = Vec::new();
        for call in [Call::Get, Call::Put, Call::Create, Call::Replace("7")] {
            request(&mut out, b"key", b"value", &call);
            let text = std::str::from_utf8(&out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(json.to_string().contains("a2V5"), "{json}");
        }
    }
}
