//! What the shell knows of the schema, to complete names and to guess what was meant.

use std::collections::BTreeMap;

use crate::client::{CqlAnswer, CqlAsk, CqlConnection, CqlFailure, CqlPage};

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownColumn {
    /// Its name.
    pub name: String,
    /// Its place in the partition key.
    pub partition: Option<i32>,
}

/// Keyspaces, tables and columns.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Columns by keyspace and table.
    pub keyspaces: BTreeMap<String, BTreeMap<String, Vec<KnownColumn>>>,
    /// The keyspace in use.
    pub keyspace: Option<String>,
}

/// What goes with statements that the shell asks on its own account.
#[must_use]
pub fn plain(text: &str) -> CqlAsk<'_> {
    CqlAsk {
        text,
        level: 1,
        serial: 8,
        page_size: None,
        paging_state: None,
        trace: false,
        receipt: false,
    }
}

/// The rows of a statement that the shell asks on its own account.
///
/// # Errors
/// [`CqlFailure`].
pub async fn page(connection: &mut CqlConnection, text: &str) -> Result<CqlPage, CqlFailure> {
    match connection.ask(plain(text)).await?.answer {
        CqlAnswer::Page(page) => Ok(page),
        _ => Ok(CqlPage::default()),
    }
}

fn text(cell: Option<&Option<Vec<u8>>>) -> String {
    let bytes = cell.and_then(Option::as_deref).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

impl Known {
    /// Reads the schema.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn load(&mut self, connection: &mut CqlConnection) -> Result<(), CqlFailure> {
        let mut found: BTreeMap<String, BTreeMap<String, Vec<KnownColumn>>> = BTreeMap::new();
        let keyspaces = page(connection, "SELECT keyspace_name FROM system_schema.keyspaces");
        for row in keyspaces.await?.rows {
            found.entry(text(row.first())).or_default();
        }
        let columns = "SELECT keyspace_name, table_name, column_name, kind, position \
                       FROM system_schema.columns";
        for row in page(connection, columns).await?.rows {
            let position = row.get(4).and_then(Option::as_deref);
            let position = position.and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
            let is_key = text(row.get(3)) == "partition_key";
            let column =
                KnownColumn { name: text(row.get(2)), partition: position.filter(|_| is_key) };
            let tables = found.entry(text(row.first())).or_default();
            tables.entry(text(row.get(1))).or_default().push(column);
        }
        self.keyspaces = found;
        Ok(())
    }

    /// The columns of a table, in the keyspace in use if none is named.
    #[must_use]
    pub fn columns(&self, keyspace: Option<&str>, table: &str) -> Option<&[KnownColumn]> {
        let keyspace = keyspace.or(self.keyspace.as_deref())?;
        self.keyspaces.get(keyspace)?.get(table).map(Vec::as_slice)
    }

    /// The partition key of a table, in order.
    #[must_use]
    pub fn partition_key(&self, keyspace: &str, table: &str) -> Vec<String> {
        let columns = self.columns(Some(keyspace), table).unwrap_or_default();
        let mut key: Vec<&KnownColumn> = columns.iter().filter(|c| c.partition.is_some()).collect();
        key.sort_by_key(|column| column.partition);
        key.into_iter().map(|column| column.name.clone()).collect()
    }

    /// A name that there is, close to what an error misses.
    #[must_use]
    pub fn meant(&self, message: &str) -> Option<String> {
        let after = |before: &str| {
            let rest = &message[message.find(before)? + before.len()..];
            let rest = rest.trim_start_matches(['\'', '"']);
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            Some(&rest[..end.unwrap_or(rest.len())])
        };
        if let Some(column) = after("Undefined column name ") {
            let (keyspace, table) = message.rsplit_once("in table ")?.1.split_once('.')?;
            let columns = self.columns(Some(keyspace), table.trim())?;
            return closest(column, columns.iter().map(|column| column.name.as_str()));
        }
        if let Some(table) = after("unconfigured table ") {
            let own = self.keyspace.as_ref().and_then(|name| self.keyspaces.get(name));
            let all = own.into_iter().chain(self.keyspaces.values()).flat_map(|own| own.keys());
            return closest(table, all.map(String::as_str));
        }
        let keyspace = after("keyspace ").or_else(|| after("Keyspace "))?;
        closest(keyspace, self.keyspaces.keys().map(String::as_str))
    }
}

/// The most similar of `names`, if any is similar.
fn closest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let scored = names.map(|name| (strsim::jaro_winkler(wrong, name), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8 && best.1 != wrong).then(|| best.1.to_owned())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A small schema.
    pub fn shop() -> Known {
        let column = |name: &str, partition| KnownColumn { name: name.to_owned(), partition };
        let stock = vec![column("item", Some(1)), column("size", None), column("day", Some(0))];
        let tables = BTreeMap::from([
            ("stock".to_owned(), stock),
            ("Orders".to_owned(), vec![column("id", Some(0))]),
        ]);
        let keyspaces = BTreeMap::from([
            ("shop".to_owned(), tables),
            ("system".to_owned(), BTreeMap::from([("local".to_owned(), Vec::new())])),
        ]);
        Known { keyspaces, keyspace: Some("shop".to_owned()) }
    }

    #[test]
    fn names_that_are_missed_are_guessed() {
        let known = shop();
        let meant = |message: &str| known.meant(message);
        assert_eq!(meant("Undefined column name itm in table shop.stock").as_deref(), Some("item"));
        assert_eq!(meant("unconfigured table stok").as_deref(), Some("stock"));
        assert_eq!(meant("keyspace shopp does not exist").as_deref(), Some("shop"));
        assert_eq!(meant("Keyspace 'sytem' does not exist").as_deref(), Some("system"));
        assert_eq!(meant("Undefined column name zzz in table shop.stock"), None);
        assert_eq!(meant("Operation timed out"), None);
        assert_eq!(known.partition_key("shop", "stock"), ["day", "item"]);
    }
}
