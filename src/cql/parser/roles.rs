//! Roles and permissions.

use super::{Parse, Parser, is_reserved};
use crate::cql::ast::{On, RoleOptions, Statement};
use crate::cql::lexer::Kind;
use crate::cql::roles::{Permission, Permissions, Resource, Secret};

const FUNCTIONS: &str = "User-defined functions are disabled: there is nothing to grant on them";
const MBEANS: &str = "There are no MBeans here: numbers are at /metrics, for everybody";
const DATACENTERS: &str = "AllowAllNetworkAuthorizer doesn't support limiting datacenters: every role \
                           may connect to all of them";
const OPTIONS: &str = "CassandraRoleManager doesn't support OPTIONS";

impl Parser<'_> {
    /// CREATE, ALTER or DROP of a role or user, behind the verb; `None`: it is about something
    /// else.
    pub(super) fn role_statement(&mut self, verb: &str) -> Parse<Option<Statement>> {
        let is_user = match self.word_ahead(0) {
            Some("role") => false,
            // `user` is no reserved word, yet no verb has a name behind it.
            Some("user") => true,
            _ => return Ok(None),
        };
        self.advance();
        let statement = match verb {
            "create" => {
                let if_not_exists = self.if_not_exists();
                let name = self.role_name(is_user)?;
                let mut options = self.role_options(is_user)?;
                if is_user {
                    options.login = Some(true);
                }
                Statement::CreateRole { name, if_not_exists, options }
            }
            "alter" => {
                let if_exists = self.if_exists();
                let name = self.role_name(is_user)?;
                let options = self.role_options(is_user)?;
                Statement::AlterRole { name, if_exists, options }
            }
            _ => {
                let if_exists = self.if_exists();
                Statement::DropRole { name: self.role_name(is_user)?, if_exists }
            }
        };
        Ok(Some(statement))
    }

    /// A role's name: a word, which is folded to lower case (of a user it is not), or in quotes of
    /// either sort.
    fn role_name(&mut self, as_written: bool) -> Parse<String> {
        let name = match self.peek() {
            Kind::Text(name) if !name.is_empty() => name.clone(),
            Kind::Word { text, quoted: true } => text.clone(),
            Kind::Word { text, quoted: false } if !is_reserved(text) => {
                let at = self.token(0).at;
                let written = self.text.get(at..at + text.len()).unwrap_or(text);
                if as_written { written.to_owned() } else { text.clone() }
            }
            _ => return Err(self.unexpected("the name of a role")),
        };
        self.advance();
        Ok(name)
    }

    fn role_options(&mut self, is_user: bool) -> Parse<RoleOptions> {
        let mut out = RoleOptions::default();
        if is_user {
            if self.skip_word("with") {
                self.password(&mut out, false)?;
            }
            if self.skip_word("superuser") {
                out.superuser = Some(true);
            } else if self.skip_word("nosuperuser") {
                out.superuser = Some(false);
            }
            return Ok(out);
        }
        if !self.skip_word("with") {
            return Ok(out);
        }
        loop {
            self.role_option(&mut out)?;
            if !self.skip_word("and") {
                return Ok(out);
            }
        }
    }

    fn role_option(&mut self, out: &mut RoleOptions) -> Parse<()> {
        match self.word_ahead(0) {
            Some("password" | "hashed") => self.password(out, true)?,
            Some("login") => {
                self.advance();
                out.login = Some(self.role_switch()?);
            }
            Some("superuser") => {
                self.advance();
                out.superuser = Some(self.role_switch()?);
            }
            Some("options") => {
                self.property()?;
                out.refused = Some(OPTIONS);
            }
            Some("access") => {
                self.advance();
                self.word("to")?;
                if self.skip_words(&["all", "datacenters"]) {
                    return Ok(());
                }
                self.word("datacenters")?;
                self.list(("{", "}"), Self::simple)?;
                out.refused = Some(DATACENTERS);
            }
            _ => {
                const EXPECTED: &str =
                    "PASSWORD, HASHED PASSWORD, LOGIN, SUPERUSER, OPTIONS or ACCESS";
                return Err(self.unexpected(EXPECTED));
            }
        }
        Ok(())
    }

    /// `[HASHED] PASSWORD = '…'`; of a user without the sign.
    fn password(&mut self, out: &mut RoleOptions, equals: bool) -> Parse<()> {
        let is_hashed = self.skip_word("hashed");
        self.word("password")?;
        if equals {
            self.sign("=")?;
        }
        // Not shown in the error: it may be the password, without its quotes.
        let Kind::Text(text) = self.peek().clone() else {
            return Err(self.error("a password is a text in single quotes"));
        };
        self.advance();
        let place = if is_hashed { &mut out.hashed } else { &mut out.password };
        *place = Some(Secret(text));
        Ok(())
    }

    fn role_switch(&mut self) -> Parse<bool> {
        self.sign("=")?;
        if self.skip_word("true") {
            return Ok(true);
        }
        self.word("false").map(|()| false)
    }

    /// GRANT or REVOKE.
    pub(super) fn grant(&mut self) -> Parse<Statement> {
        let is_grant = self.skip_word("grant");
        if !is_grant {
            self.word("revoke")?;
        }
        let whom = if is_grant { "to" } else { "from" };
        if self.is_execute() {
            return Ok(self.refuse(FUNCTIONS));
        }
        let Some(permissions) = self.permissions()? else {
            let role = self.role_name(false)?;
            self.word(whom)?;
            let member = self.role_name(false)?;
            return Ok(match is_grant {
                true => Statement::GrantRole { role, to: member },
                false => Statement::RevokeRole { role, from: member },
            });
        };
        self.word("on")?;
        if let Some(why) = self.no_resource() {
            return Ok(self.refuse(why));
        }
        let on = self.on()?;
        self.word(whom)?;
        let role = self.role_name(false)?;
        Ok(match is_grant {
            true => Statement::Grant { permissions, on, to: role },
            false => Statement::Revoke { permissions, on, from: role },
        })
    }

    pub(super) fn list_statement(&mut self) -> Parse<Statement> {
        self.word("list")?;
        if self.skip_word("users") {
            return Ok(Statement::ListUsers);
        }
        if self.skip_word("roles") {
            let of = self.of_role()?;
            return Ok(Statement::ListRoles { of, recursive: !self.skip_word("norecursive") });
        }
        if self.is_execute() {
            return Ok(self.refuse(FUNCTIONS));
        }
        let Some(permissions) = self.permissions()? else {
            return Err(self.unexpected("ROLES, USERS, ALL PERMISSIONS or a permission"));
        };
        let mut on = None;
        if self.skip_word("on") {
            if let Some(why) = self.no_resource() {
                return Ok(self.refuse(why));
            }
            on = Some(self.on()?);
        }
        let of = self.of_role()?;
        let recursive = !self.skip_word("norecursive");
        Ok(Statement::ListPermissions { permissions, on, of, recursive })
    }

    fn of_role(&mut self) -> Parse<Option<String>> {
        if self.skip_word("of") { self.role_name(false).map(Some) } else { Ok(None) }
    }

    fn is_execute(&self) -> bool {
        self.is_word("execute")
    }

    /// `ALL [PERMISSIONS]`, or permissions with commas between; `None`: it is none.
    fn permissions(&mut self) -> Parse<Option<Permissions>> {
        if self.is_word("all") && !matches!(self.word_ahead(1), Some("to" | "from")) {
            self.advance();
            self.skip_word("permissions");
            return Ok(Some(Permissions::every()));
        }
        if self.word_ahead(0).and_then(Permission::of_word).is_none() {
            return Ok(None);
        }
        let all = self.separated(|parser| {
            let found = parser.word_ahead(0).and_then(Permission::of_word);
            let one = found.ok_or_else(|| parser.unexpected("a permission"))?;
            parser.advance();
            parser.skip_word("permission");
            Ok(one)
        })?;
        Ok(Some(Permissions::of(&all)))
    }

    /// Why nothing can be granted on what stands here.
    fn no_resource(&self) -> Option<&'static str> {
        let at = usize::from(self.is_word("all"));
        match self.word_ahead(at)? {
            // A table may be called so.
            "functions" if at == 1 => Some(FUNCTIONS),
            "function" if at == 0 && self.word_ahead(1).is_some_and(|word| word != "to") => {
                Some(FUNCTIONS)
            }
            "mbean" | "mbeans" if self.word_ahead(at + 1) != Some("to") || at == 1 => Some(MBEANS),
            _ => None,
        }
    }

    fn on(&mut self) -> Parse<On> {
        let all = self.is_word("all");
        if all && self.word_ahead(1) == Some("keyspaces") {
            self.skip_words(&["all", "keyspaces"]);
            return Ok(On::Resource(Resource::AllKeyspaces));
        }
        if self.skip_words(&["all", "roles"]) {
            return Ok(On::Resource(Resource::AllRoles));
        }
        // Tables have no place of their own between keyspace and table here.
        if self.skip_words(&["all", "tables", "in", "keyspace"]) || self.skip_word("keyspace") {
            return Ok(On::Resource(Resource::Keyspace(self.name()?)));
        }
        let names_role =
            matches!(
                self.token(1).kind,
                Kind::Text(_) | Kind::Word { quoted: true, .. } | Kind::Word { quoted: false, .. }
            ) && !matches!(self.word_ahead(1), Some("to" | "from" | "of" | "norecursive"));
        if self.is_word("role") && names_role {
            self.advance();
            return Ok(On::Resource(Resource::Role(self.role_name(false)?)));
        }
        let _ = self.skip_word("table") || self.skip_word("columnfamily");
        Ok(On::Table(self.full_name()?))
    }
}
