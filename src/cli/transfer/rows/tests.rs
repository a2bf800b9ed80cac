//! Reading files.

use std::io::Write;

use super::*;

fn args(file: &Path, columns: &str) -> FileArgs {
    FileArgs {
        file: file.to_owned(),
        bucket: "b".to_owned(),
        format: None,
        key_template: None,
        key_columns: columns.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect(),
        concurrency: 1,
        limit: None,
        patience: std::time::Duration::ZERO,
    }
}

type Read = Vec<Result<Numbered, String>>;

async fn read(name: &str, content: &[u8], columns: &str, skip: u64) -> Read {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    let mut rows = open(&args(&path, columns), skip).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.rows.recv().await {
        all.push(row);
    }
    assert!(rows.position.load(Ordering::Relaxed) <= rows.length);
    all
}

fn good(row: &Result<Numbered, String>) -> (&str, &str) {
    let row = row.as_ref().unwrap().row.as_ref().unwrap();
    (std::str::from_utf8(&row.key).unwrap(), std::str::from_utf8(&row.value).unwrap())
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

const CSV: &[u8] = b"a,b,c\n1,\"x, \"\"y\"\"\",\n2,z,NA\n";

#[tokio::test]
async fn a_csv_row_becomes_a_json_object_in_the_order_of_its_columns() {
    let rows = read("f.csv", CSV, "b,a", 0).await;
    assert_eq!(good(&rows[0]), ("x, \"y\"/1", r#"{"a":"1","b":"x, \"y\"","c":""}"#));
    assert_eq!(good(&rows[1]), ("z/2", r#"{"a":"2","b":"z","c":"NA"}"#));
    assert_eq!(rows.len(), 2);
}

#[tokio::test]
async fn a_gzipped_file_reads_the_same_and_skipped_rows_keep_their_numbers() {
    let rows = read("f.csv.gz", &packed(CSV), "a", 1).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(good(&rows[0]).0, "2");
    assert_eq!(rows[0].as_ref().unwrap().number, 1);
}

#[tokio::test]
async fn a_bad_row_is_reported_and_the_next_one_is_read() {
    let rows = read("f.csv", b"a,b\n1\n\xff,2\n3,4\n", "a", 0).await;
    assert!(rows[0].as_ref().unwrap().row.is_err());
    assert!(rows[1].as_ref().unwrap().row.is_err());
    assert_eq!(good(&rows[2]).0, "3");
}

#[tokio::test]
async fn a_missing_column_is_named_with_those_that_exist() {
    let rows = read("f.csv", CSV, "a,carrier", 0).await;
    let message = rows[0].as_ref().unwrap_err();
    assert!(message.contains("\"carrier\"") && message.contains("a, b, c"), "{message}");
}

#[tokio::test]
async fn a_damaged_archive_is_an_error_not_an_end() {
    let mut packed = packed(&CSV.repeat(1000));
    packed.truncate(packed.len() / 2);
    let rows = read("f.csv.gz", &packed, "a", 0).await;
    assert!(rows.last().unwrap().is_err());
}

#[tokio::test]
async fn ndjson_keeps_the_line_as_it_is() {
    let rows = read("f.ndjson", b"{\"b\": 1.50, \"a\":7}\n\n{\"a\":null}\nnope\n", "a", 0).await;
    assert_eq!(good(&rows[0]), ("7", "{\"b\": 1.50, \"a\":7}"));
    assert!(rows[1].as_ref().unwrap().row.is_err());
    assert!(rows[2].as_ref().unwrap().row.is_err());
    assert_eq!(rows.len(), 3);
}

#[tokio::test]
async fn a_record_gives_a_row_for_each_of_its_values() {
    let line = concat!(
        r#"{"key":"/w==","key_encoding":"base64","values":[{"value":"a"},"#,
        r#"{"value":"AA==","encoding":"base64","content_type":"x/y"}]}"#
    );
    let rows = read("f.records", line.as_bytes(), "", 0).await;
    let values: Vec<_> = rows.into_iter().map(|row| row.unwrap().row.unwrap()).collect();
    assert_eq!(values[0].key, values[1].key);
    assert_eq!(values[0].key[..], [0xff]);
    assert_eq!((&values[0].value[..], &values[1].value[..]), (&b"a"[..], &[0][..]));
    assert_eq!(values[1].content_type.as_deref(), Some("x/y"));
}
