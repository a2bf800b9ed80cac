//! What may be granted, and on what, as CQL names them; and how statements that hold a password
//! are shown.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cql::lexer::{Kind, Token, tokens};

/// What a role may do with a resource. In Cassandra's order, by which lists are sorted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are CQL's own")]
pub enum Permission {
    Create,
    Alter,
    Drop,
    Select,
    Modify,
    Authorize,
    Describe,
}

impl Permission {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Alter,
        Self::Drop,
        Self::Select,
        Self::Modify,
        Self::Authorize,
        Self::Describe,
    ];

    /// The permission of this lower-case word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.word().eq_ignore_ascii_case(word))
    }

    /// As CQL writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Alter => "ALTER",
            Self::Drop => "DROP",
            Self::Select => "SELECT",
            Self::Modify => "MODIFY",
            Self::Authorize => "AUTHORIZE",
            Self::Describe => "DESCRIBE",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Permissions(u16);

impl Permissions {
    /// The set of `all`.
    #[must_use]
    pub fn of(all: &[Permission]) -> Self {
        Self(all.iter().fold(0, |set, one| set | 1 << *one as u16))
    }

    /// Every permission that there is.
    #[must_use]
    pub fn every() -> Self {
        Self::of(&Permission::ALL)
    }

    /// True if `one` is in it.
    #[must_use]
    pub fn has(self, one: Permission) -> bool {
        self.0 & 1 << one as u16 != 0
    }

    /// True of the empty set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in one of them or the other.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Its permissions, in order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |one| self.has(*one))
    }
}

/// What a permission is on. Those on a whole hold for its parts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Resource {
    /// All that holds data.
    AllKeyspaces,
    /// A keyspace with its tables.
    Keyspace(String),
    /// A table of a keyspace.
    Table(String, String),
    /// All roles.
    AllRoles,
    /// One role.
    Role(String),
}

impl Resource {
    /// A table.
    #[must_use]
    pub fn table(keyspace: &str, table: &str) -> Self {
        Self::Table(keyspace.to_owned(), table.to_owned())
    }

    /// What it is a part of.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        match self {
            Self::AllKeyspaces | Self::AllRoles => None,
            Self::Keyspace(_) => Some(Self::AllKeyspaces),
            Self::Table(keyspace, _) => Some(Self::Keyspace(keyspace.clone())),
            Self::Role(_) => Some(Self::AllRoles),
        }
    }

    /// The permissions that mean something here, as in Cassandra.
    #[must_use]
    pub fn applicable(&self) -> Permissions {
        use Permission::{Alter, Authorize, Create, Describe, Drop, Modify, Select};
        Permissions::of(match self {
            Self::AllKeyspaces | Self::Keyspace(_) => {
                &[Create, Alter, Drop, Select, Modify, Authorize]
            }
            Self::Table(..) => &[Alter, Drop, Select, Modify, Authorize],
            Self::AllRoles => &[Create, Alter, Drop, Authorize, Describe],
            Self::Role(_) => &[Alter, Drop, Authorize, Describe],
        })
    }

    /// Its name in `system_auth.role_permissions`.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::AllKeyspaces => "data".to_owned(),
            Self::Keyspace(keyspace) => format!("data/{keyspace}"),
            Self::Table(keyspace, table) => format!("data/{keyspace}/{table}"),
            Self::AllRoles => "roles".to_owned(),
            Self::Role(role) => format!("roles/{role}"),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllKeyspaces => f.write_str("<all keyspaces>"),
            Self::Keyspace(keyspace) => write!(f, "<keyspace {keyspace}>"),
            Self::Table(keyspace, table) => write!(f, "<table {keyspace}.{table}>"),
            Self::AllRoles => f.write_str("<all roles>"),
            Self::Role(role) => write!(f, "<role {role}>"),
        }
    }
}

/// A password or its hash: never shown by `Debug`, so that it gets into no log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `text` with every password in it replaced by `'***'`, for traces and histories. Of text that is
/// no CQL nothing after the word is shown.
#[must_use]
pub fn masked(text: &str) -> Cow<'_, str> {
    let lower = text.to_ascii_lowercase();
    let Some(word) = lower.find("password") else { return Cow::Borrowed(text) };
    let Ok(tokens) = tokens(text) else {
        return Cow::Owned(format!("{}password ***", &text[..word]));
    };
    let is_password =
        |kind: &Kind| matches!(kind, Kind::Word { text, quoted: false } if text == "password");
    let (mut out, mut shown) = (String::new(), 0);
    for (at, token) in tokens.iter().enumerate() {
        let behind = &tokens[at + 1..];
        let equals = matches!(behind.first(), Some(next) if next.kind == Kind::Sign("="));
        let value = behind.get(usize::from(equals));
        // What was meant as one need not be a literal: many write it in the wrong quotes, or in
        // none. (A word that follows at once is a column's next one.)
        let is_meant = |value: &&Token| match &value.kind {
            Kind::Sign(_) | Kind::Question | Kind::End => false,
            Kind::Word { quoted, .. } => *quoted || equals,
            _ => true,
        };
        if is_password(&token.kind)
            && let Some(value) = value.filter(is_meant)
        {
            let after = behind.get(usize::from(equals) + 1).map_or(text.len(), |next| next.at);
            out.push_str(&text[shown..value.at]);
            out.push_str(if after == text.len() { "'***'" } else { "'***' " });
            shown = after;
        }
    }
    if shown == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[shown..]);
    Cow::Owned(out)
}

/// True if `text` holds a password, or might.
#[must_use]
pub fn holds_password(text: &str) -> bool {
    matches!(masked(text), Cow::Owned(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown_however_it_is_written() {
        for (text, shown) in [
            (
                "CREATE ROLE a WITH PASSWORD = 'it''s' AND LOGIN = true",
                "CREATE ROLE a WITH PASSWORD = '***' AND LOGIN = true",
            ),
            ("create user a with password $$x$$", "create user a with password '***'"),
            (
                "ALTER ROLE a WITH HASHED PASSWORD='$2a$x' ; SELECT 1",
                "ALTER ROLE a WITH HASHED PASSWORD='***' ; SELECT 1",
            ),
            ("ALTER ROLE a WITH PASSWORD = 'open", "ALTER ROLE a WITH password ***"),
            ("CREATE ROLE a WITH PASSWORD = \"x\"", "CREATE ROLE a WITH PASSWORD = '***'"),
            ("ALTER USER a WITH PASSWORD \"x\"", "ALTER USER a WITH PASSWORD '***'"),
            (
                "ALTER ROLE a WITH PASSWORD = x AND LOGIN = true",
                "ALTER ROLE a WITH PASSWORD = '***' AND LOGIN = true",
            ),
            ("ALTER ROLE a WITH PASSWORD = 12", "ALTER ROLE a WITH PASSWORD = '***'"),
            ("SELECT k FROM t WHERE password = ?", "SELECT k FROM t WHERE password = ?"),
            ("SELECT password FROM t WHERE k = 'x'", "SELECT password FROM t WHERE k = 'x'"),
            ("SELECT * FROM t", "SELECT * FROM t"),
        ] {
            assert_eq!(masked(text), shown);
        }
        assert!(holds_password("ALTER ROLE a WITH PASSWORD = 'b'"));
        assert!(!holds_password("SELECT password FROM t"));
        assert_eq!(format!("{:?}", Secret("x".to_owned())), "***");
    }

    #[test]
    fn sets_of_permissions_are_sets() {
        use Permission::{Modify, Select};
        let both = Permissions::of(&[Select, Modify]);
        assert!(both.has(Select) && both.has(Modify) && !both.has(Permission::Drop));
        assert_eq!(both.without(Permissions::of(&[Modify])), Permissions::of(&[Select]));
        assert_eq!(both.iter().collect::<Vec<_>>(), [Select, Modify]);
        assert!(Permissions::every().and(both) == both && Permissions::default().is_empty());
        assert_eq!(Permission::of_word("select"), Some(Select));
    }
}
