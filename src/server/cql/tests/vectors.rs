//! Vectors: functions of them, and the rows that are nearest to one.

use super::door::{Client, parameters, shown};
use crate::server::cql::response::Answer;
use crate::server::cql::wire::Value;

const INVALID: i32 = 0x2200;

/// Points of a quarter of a circle, `n` of ten, in two partitions; one row has none.
async fn points() -> Client {
    let client = Client::new().await;
    client
        .run("CREATE TABLE t (p int, n int, w text, v vector<float, 2>, PRIMARY KEY (p, n))")
        .await;
    for n in 0..10 {
        let angle = f64::from(n) * std::f64::consts::FRAC_PI_2 / 9.0;
        let (p, x, y) = (n % 2, angle.cos(), angle.sin());
        let insert = format!("INSERT INTO t (p, n, w, v) VALUES ({p}, {n}, 'x', [{x:.6}, {y:.6}])");
        client.run(&insert).await;
    }
    client.run("INSERT INTO t (p, n) VALUES (0, 100)").await;
    client
}

#[tokio::test]
async fn the_nearest_rows_come_first() {
    let client = points().await;
    for (text, found) in [
        ("WHERE p = 0 ORDER BY v ANN OF [1, 0] LIMIT 3", &["0", "2", "4"][..]),
        ("WHERE p = 1 ORDER BY v ANN OF [0, 5] LIMIT 2", &["9", "7"]),
        ("WHERE p IN (0, 1) ORDER BY v ANN OF [1, 0.1] LIMIT 3", &["1", "0", "2"]),
        ("ORDER BY v ANN OF [0.0, 1.0] LIMIT 4 ALLOW FILTERING", &["9", "8", "7", "6"]),
        ("WHERE p = 0 AND n > 2 ORDER BY v ANN OF [1, 0] LIMIT 2", &["4", "6"]),
        ("WHERE w = 'y' ORDER BY v ANN OF [1, 0] LIMIT 2 ALLOW FILTERING", &[]),
        // Neither is more than there is, nor what has no vector.
        ("WHERE p = 0 ORDER BY v ANN OF [1, 0] LIMIT 1000", &["0", "2", "4", "6", "8"]),
    ] {
        assert_eq!(client.show(&format!("SELECT n FROM t {text}")).await, found, "{text}");
    }
    // Values that are bound, and a page that is shorter than the answer.
    let text = "SELECT n FROM t WHERE p = ? ORDER BY v ANN OF ? LIMIT ?";
    let vector = [0f32.to_be_bytes(), 1f32.to_be_bytes()].concat();
    let bytes = |bytes: Vec<u8>| Value::Bytes(bytes);
    let values =
        vec![bytes(1i32.to_be_bytes().to_vec()), bytes(vector), bytes(3i32.to_be_bytes().to_vec())];
    let asked = super::super::request::Parameters { page_size: Some(1), ..parameters(values) };
    assert_eq!(shown(&client.rows(text, asked).await), ["9", "7", "5"]);
}

#[tokio::test]
async fn how_near_vectors_are_is_shown() {
    let client = points().await;
    client.run("UPDATE t SET v = [3, 4] WHERE p = 7 AND n = 1").await;
    let row = "FROM t WHERE p = 7 AND n = 1";
    for (call, value) in [
        ("similarity_cosine(v, [4, 3])", "0.98"),
        ("similarity_cosine([4, 3], v)", "0.98"),
        ("similarity_euclidean(v, v)", "1"),
        ("similarity_dot_product(v, [1, 1])", "4"),
        ("system.similarity_euclidean(v, [3, 6])", "0.2"),
    ] {
        assert_eq!(client.show(&format!("SELECT {call} {row}")).await, [value], "{call}");
    }
    assert_eq!(
        client.show("SELECT similarity_cosine(v, [1, 1]) FROM t WHERE p = 0 AND n = 100").await,
        ["null"]
    );
    let nearest = "SELECT n, similarity_cosine(v, [1, 0]) AS s FROM t WHERE p = 0 \
                   ORDER BY v ANN OF [1, 0] LIMIT 1";
    assert_eq!(client.show(nearest).await, ["0 1"]);
    for wrong in [
        "similarity_cosine(v, [1])",
        "similarity_cosine(v, [0, 0])",
        "similarity_cosine(v)",
        "similarity_cosine([1, 2], [3, 4])",
        "similarity_cosine(v, n)",
        "similarity_euclidean(n, n)",
    ] {
        assert_eq!(client.refused(&format!("SELECT {wrong} {row}")).await, INVALID, "{wrong}");
    }
}

#[tokio::test]
async fn what_would_be_no_nearest_rows_is_refused_and_says_why() {
    let client = points().await;
    for (text, why) in [
        ("ORDER BY v ANN OF [1, 0] LIMIT 1", "name the partition, or use ALLOW FILTERING"),
        ("WHERE p = 1 ORDER BY v ANN OF [1, 0]", "requires a LIMIT"),
        ("WHERE p = 1 ORDER BY v ANN OF [1, 0] LIMIT 1001", "not greater than 1000"),
        ("WHERE p = 1 ORDER BY v ANN OF [1, 0, 0] LIMIT 1", "3 elements"),
        ("WHERE p = 1 ORDER BY v ANN OF [0, 0] LIMIT 1", "not all zero"),
        ("WHERE p = 1 ORDER BY v ANN OF null LIMIT 1", "not all zero"),
        ("WHERE p = 1 ORDER BY w ANN OF [1, 0] LIMIT 1", "w is of type text"),
        ("WHERE p = 1 ORDER BY u ANN OF [1, 0] LIMIT 1", "Undefined column name u"),
        ("WHERE p = 1 GROUP BY p ORDER BY v ANN OF [1, 0] LIMIT 1", "GROUP BY"),
        ("WHERE p = 1 ORDER BY v ANN OF [1, 0] PER PARTITION LIMIT 1 LIMIT 1", "PARTITION LIMIT"),
    ] {
        let answer = client.ask(&format!("SELECT n FROM t {text}"), parameters(Vec::new())).await;
        let Answer::Error(error) = answer else { panic!("{text}: {answer:?}") };
        assert_eq!(error.code(), INVALID, "{text}");
        assert!(error.message().contains(why), "{text}: {}", error.message());
    }
}
