//! The consistency receipts of a statement: who was asked, what each has said, which rule was met.

use serde_json::Value;

/// Receipts that are shown of one statement.
const MOST: usize = 8;

/// The receipts of a statement's pages, each a JSON array of them, as text.
#[must_use]
pub fn shown(pages: &[Vec<u8>]) -> String {
    let parsed = pages.iter().filter_map(|page| serde_json::from_slice::<Vec<Value>>(page).ok());
    let all: Vec<Value> = parsed.flatten().collect();
    if all.is_empty() {
        return "\nNo receipt: no replica was asked\n".to_owned();
    }
    let mut out = String::new();
    for receipt in all.iter().take(MOST) {
        out.push_str(&one(receipt));
    }
    if all.len() > MOST {
        out.push_str(&format!("\n({} more receipts)\n", all.len() - MOST));
    }
    out
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_default()
}

fn millis(micros: &Value) -> String {
    micros.as_f64().map_or_else(String::new, |micros| format!("{:.3} ms", micros / 1e3))
}

fn one(receipt: &Value) -> String {
    let (operation, level) = (text(receipt, "operation"), text(receipt, "level").to_uppercase());
    let number = |name: &str| receipt[name].as_u64().unwrap_or(0);
    let mut out = format!("\nReceipt: {operation} at {level}");
    if number("n") > 0 {
        out.push_str(&format!(
            ", {} of {} needed answers, {} replicas, epoch {}",
            number("received"),
            number("required"),
            number("n"),
            number("epoch")
        ));
    } else if receipt["overlap"] == true {
        out.push_str(", decided by a majority");
    }
    if number("total_us") > 0 {
        out.push_str(&format!(", {}", millis(&receipt["total_us"])));
    }
    out.push('\n');
    if receipt["overlap"] == false {
        out.push_str("  may miss what others wrote, or be missed, at this level\n");
    }
    let replicas = receipt["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width = replicas.iter().map(|one| text(one, "node").chars().count()).max().unwrap_or(0);
    for replica in replicas {
        let line = format!(
            "  {:width$}  {:6}  {}  {}",
            text(replica, "node"),
            text(replica, "role"),
            text(replica, "answer"),
            millis(&replica["answered_us"])
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    for keeper in receipt["stood_in"].as_array().into_iter().flatten() {
        let (node, replica) = (text(keeper, "node"), text(keeper, "for"));
        out.push_str(&format!("  {node} keeps it for {replica}\n"));
    }
    let repaired = receipt["repaired"].as_array().into_iter().flatten();
    let repaired: Vec<&str> = repaired.filter_map(Value::as_str).collect();
    if !repaired.is_empty() {
        out.push_str(&format!("  behind, and repaired: {}\n", repaired.join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_names_who_was_asked_and_what_each_has_said() {
        let page = serde_json::json!([{
            "operation": "read", "epoch": 5, "level": "quorum", "n": 3, "required": 2,
            "received": 2, "overlap": true, "repaired": ["n3"], "hedged": 0, "total_us": 1_250,
            "replicas": [
                {"node": "n1", "role": "data", "answer": "ok", "answered_us": 800},
                {"node": "n10", "role": "digest", "answer": "pending"},
            ],
        }]);
        let shown = shown(&[page.to_string().into_bytes()]);
        assert_eq!(
            shown,
            "\nReceipt: read at QUORUM, 2 of 2 needed answers, 3 replicas, epoch 5, 1.250 ms\n  \
             n1   data    ok  0.800 ms\n  n10  digest  pending\n  behind, and repaired: n3\n"
        );
    }

    #[test]
    fn what_asked_nobody_says_so_and_many_receipts_are_cut() {
        assert!(shown(&[]).contains("No receipt"));
        assert!(shown(&[b"nonsense".to_vec()]).contains("No receipt"));
        let one = serde_json::json!({"operation": "scan", "level": "one", "overlap": false});
        let many = serde_json::Value::Array(vec![one; MOST + 3]);
        let shown = shown(&[many.to_string().into_bytes()]);
        assert!(shown.ends_with("(3 more receipts)\n"), "{shown}");
        assert!(shown.contains("may miss what others wrote"), "{shown}");
    }
}
