//! Where a copy goes and what it is called there: Docker's rules. Pure.

use std::path::{Component, Path};

use crate::worker::runtime::copy::PathKind;

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: String,
    /// Links followed.
    pub(super) kind: PathKind,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    path: String,
    kind: PathKind,
}

/// A directory that is there, and the name in it: `.` for everything that is in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) directory: String,
    pub(super) name: String,
}

/// Why it cannot be. One sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("{0} is not a directory")]
    NotADirectory(String),
    #[error("{0} is a directory and cannot become the file {1}")]
    DirectoryToFile(String, String),
    #[error("there is no directory {0}; leave the / at its end away, or make it first")]
    NoDirectory(String),
}

/// The last name of a path; nothing for `/`, `.`, `..` and nothing.
fn base(path: &str) -> Option<&str> {
    match Path::new(path).components().next_back() {
        Some(Component::Normal(name)) => name.to_str(),
        _ => None,
    }
}

/// Whether a path can only be a directory's.
fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || only_contents(path)
}

/// Whether it ends in `/.`.
fn only_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

impl Source {
    pub(super) fn new(path: &str, kind: PathKind) -> Self {
        Self { path: path.to_owned(), kind }
    }

    /// Whether a link at its end is followed because of how it is written.
    pub(super) fn follow(&self) -> bool {
        asserts_directory(&self.path) || base(&self.path).is_none()
    }

    /// Its name in an archive that goes nowhere in particular.
    pub(super) fn archive_name(&self) -> &str {
        if only_contents(&self.path) { "." } else { base(&self.path).unwrap_or(".") }
    }
}

impl Target {
    pub(super) fn new(path: &str, kind: PathKind) -> Self {
        Self { path: path.to_owned(), kind }
    }

    /// As the entry of a directory.
    fn entry(&self) -> Result<Place, PlaceError> {
        let missing = || PlaceError::NoDirectory(self.path.clone());
        let name = base(&self.path).ok_or_else(missing)?.to_owned();
        let directory = match Path::new(&self.path).parent().and_then(Path::to_str) {
            None | Some("") => ".".to_owned(),
            Some(parent) => parent.to_owned(),
        };
        Ok(Place { directory, name })
    }
}

/// Decides. Whether a directory above the target is there is for who unpacks to find out.
pub(super) fn place(source: &Source, target: &Target) -> Result<Place, PlaceError> {
    let is_directory = source.kind == PathKind::Directory;
    if asserts_directory(&source.path) && source.kind == PathKind::Other {
        return Err(PlaceError::NotADirectory(source.path.clone()));
    }
    match target.kind {
        PathKind::Directory => {
            // The root, `.` and `..` have no name of their own.
            let own = base(&source.path).filter(|_| !(is_directory && only_contents(&source.path)));
            Ok(Place { directory: target.path.clone(), name: own.unwrap_or(".").to_owned() })
        }
        PathKind::Other if asserts_directory(&target.path) => {
            Err(PlaceError::NotADirectory(target.path.clone()))
        }
        PathKind::Other if is_directory => {
            Err(PlaceError::DirectoryToFile(source.path.clone(), target.path.clone()))
        }
        PathKind::Absent if asserts_directory(&target.path) && !is_directory => {
            Err(PlaceError::NoDirectory(target.path.clone()))
        }
        PathKind::Other | PathKind::Absent => target.entry(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_table() {
        use PathKind::{Absent as A, Directory as D, Other as F};
        for (source, kind, target, at, expected) in [
            // A file.
            ("f", F, "/new", A, Ok(("/", "new"))),
            ("f", F, "new", A, Ok((".", "new"))),
            ("a/f", F, "/x/old", F, Ok(("/x", "old"))),
            ("a/f", F, "/dir", D, Ok(("/dir", "f"))),
            ("a/f", F, "/dir/", D, Ok(("/dir/", "f"))),
            (
                "f",
                F,
                "/none/",
                A,
                Err("there is no directory /none/; leave the / at its end away, or make it first"),
            ),
            ("f", F, "/old/", F, Err("/old/ is not a directory")),
            ("f/", F, "/new", A, Err("f/ is not a directory")),
            ("f/.", F, "/new", A, Err("f/. is not a directory")),
            // A directory.
            ("a/d", D, "/new", A, Ok(("/", "new"))),
            ("a/d", D, "/new/", A, Ok(("/", "new"))),
            ("a/d/.", D, "/new", A, Ok(("/", "new"))),
            ("a/d", D, "/dir", D, Ok(("/dir", "d"))),
            ("a/d/", D, "/dir", D, Ok(("/dir", "d"))),
            ("a/d/.", D, "/dir", D, Ok(("/dir", "."))),
            (".", D, "/dir", D, Ok(("/dir", "."))),
            ("/", D, "/dir", D, Ok(("/dir", "."))),
            ("..", D, "/dir", D, Ok(("/dir", "."))),
            ("a/d", D, "/old", F, Err("a/d is a directory and cannot become the file /old")),
        ] {
            let made = place(&Source::new(source, kind), &Target::new(target, at));
            let expected = expected
                .map(|(d, n)| Place { directory: d.to_owned(), name: n.to_owned() })
                .map_err(str::to_owned);
            assert_eq!(made.map_err(|e| e.to_string()), expected, "{source} → {target}");
        }
    }

    #[test]
    fn a_path_that_must_be_a_directorys_follows_links() {
        for (path, follow, name) in [
            ("a/l", false, "l"),
            ("a/l/", true, "l"),
            ("a/l/.", true, "."),
            ("/", true, "."),
            ("", true, "."),
        ] {
            let s = Source::new(path, PathKind::Directory);
            assert_eq!((s.follow(), s.archive_name()), (follow, name), "{path}");
        }
    }
}
