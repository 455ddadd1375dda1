//! Who a container runs as: the service's user, or the image's `USER`, looked up in the image's own
//! account files.

use crate::worker::runtime::rootfs::Accounts;

/// A looked-up user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// A name is not in the image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such name in /etc/passwd.
    #[error(
        "cannot start: the user \"{0}\" is not in /etc/passwd of the image; use a number or add the user to the image"
    )]
    User(String),
    /// No such name in /etc/group.
    #[error(
        "cannot start: the group \"{0}\" is not in /etc/group of the image; use a number or add the group to the image"
    )]
    Group(String),
}

impl UserError {
    /// The same of a running container instead of an image.
    #[must_use]
    pub fn in_container(&self) -> String {
        let (what, name, file) = match self {
            Self::User(name) => ("user", name, "passwd"),
            Self::Group(name) => ("group", name, "group"),
        };
        format!("{what} \"{name}\" is not in the container's /etc/{file}; use a number or a name that is")
    }
}

/// Looks up `USER`: empty, `user`, `uid`, or either with `:group` or `:gid`. A number without an
/// entry is taken as it is; further groups come from /etc/group unless a group is named, and those
/// of `added`, names or numbers, always. These are Docker's rules.
pub fn resolve_user(user: &str, added: &[String], accounts: &Accounts) -> Result<User, UserError> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let number = if name.is_empty() { Some(0) } else { name.parse::<u32>().ok() };
    let entry = accounts.passwd.lines().filter_map(passwd_entry).find(|e| match number {
        Some(n) => e.uid == n,
        None => e.name == name,
    });
    let (uid, mut gid, known) = match (&entry, number) {
        (Some(e), _) => (e.uid, e.gid, Some(e.name)),
        (None, Some(n)) => (n, 0, None),
        (None, None) => return Err(UserError::User(name.to_owned())),
    };
    let mut groups = Vec::new();
    if group.is_empty() {
        if let Some(known) = known {
            let of = |g: &GroupEntry<'_>| g.members.split(',').any(|m| m.trim() == known);
            groups = accounts.group.lines().filter_map(group_entry).filter(of).map(|g| g.gid).collect();
        }
    } else {
        gid = find_group(group, accounts)?;
    }
    for group in added {
        groups.push(find_group(group, accounts)?);
    }
    // The own group is among the further ones, or a process could shed it to gain access that
    // the group is denied.
    groups.insert(0, gid);
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|g| seen.insert(*g));
    Ok(User { uid, gid, groups })
}

fn find_group(group: &str, accounts: &Accounts) -> Result<u32, UserError> {
    let number = group.parse::<u32>().ok();
    let found = accounts.group.lines().filter_map(group_entry).find(|g| match number {
        Some(n) => g.gid == n,
        None => g.name == group,
    });
    match (found, number) {
        (Some(g), _) => Ok(g.gid),
        (None, Some(n)) => Ok(n),
        (None, None) => Err(UserError::Group(group.to_owned())),
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn passwd_entry(line: &str) -> Option<PasswdEntry<'_>> {
    let mut f = line.trim().split(':');
    let name = f.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
    f.next()?;
    Some(PasswdEntry { name, uid: f.next()?.parse().ok()?, gid: f.next()?.parse().ok()? })
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_entry(line: &str) -> Option<GroupEntry<'_>> {
    let mut f = line.trim().split(':');
    let name = f.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
    f.next()?;
    Some(GroupEntry { name, gid: f.next()?.parse().ok()?, members: f.next().unwrap_or("") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let accounts = Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\n# no\nweb:x:101:102::/:\n12ab:x:7:8::/:\n".to_owned(),
            group: "root:x:0:\nbin:x:1:root,web\nweb:x:102:\nlog:x:200:web, other\n".to_owned(),
        };
        for (user, uid, gid, groups) in [
            ("", 0, 0, vec![0, 1]),
            ("root", 0, 0, vec![0, 1]),
            ("web", 101, 102, vec![102, 1, 200]),
            ("101", 101, 102, vec![102, 1, 200]),
            ("web:log", 101, 200, vec![200]),
            ("web:9", 101, 9, vec![9]),
            ("4000", 4000, 0, vec![0]),
            ("4000:4001", 4000, 4001, vec![4001]),
            ("12ab", 7, 8, vec![8]),
        ] {
            assert_eq!(resolve_user(user, &[], &accounts), Ok(User { uid, gid, groups }), "{user}");
        }
        assert_eq!(resolve_user("nobody", &[], &accounts), Err(UserError::User("nobody".to_owned())));
        assert_eq!(resolve_user("web:nogroup", &[], &accounts), Err(UserError::Group("nogroup".to_owned())));
        assert_eq!(resolve_user("", &[], &Accounts::default()), Ok(User { uid: 0, gid: 0, groups: vec![0] }));
    }

    #[test]
    fn further_groups_are_added_to_those_of_the_user() {
        let accounts = Accounts {
            passwd: "web:x:101:102::/:\n".to_owned(),
            group: "log:x:200:web\nvideo:x:44:\n".to_owned(),
        };
        let added = |names: &[&str], user: &str| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            resolve_user(user, &names, &accounts).map(|u| u.groups)
        };
        assert_eq!(added(&["video", "7", "200"], "web"), Ok(vec![102, 200, 44, 7]));
        assert_eq!(added(&["video"], "5:6"), Ok(vec![6, 44]));
        assert_eq!(added(&["nogroup"], "web"), Err(UserError::Group("nogroup".to_owned())));
    }
}
