//! What `WWW-Authenticate` asks for.

use std::collections::BTreeMap;

/// What a registry wants before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token, from here.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads the challenges of a header, one or several of them, and takes the best that we can meet.
pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for (scheme, mut params) in split(header) {
            if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = params.remove("realm")
            {
                let (service, scope) = (params.remove("service"), params.remove("scope"));
                return Some(Challenge::Bearer { realm, service, scope });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// Schemes with their parameters (RFC 9110, 11.6.1): a word that no `=` follows begins a scheme.
fn split(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut list: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let end = rest.find(['=', ' ', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        match after.trim_start().strip_prefix('=') {
            Some(value) if !list.is_empty() => {
                let (value, after) = take_value(value.trim_start());
                if let Some((_, params)) = list.last_mut() {
                    params.insert(word.to_ascii_lowercase(), value);
                }
                rest = after;
            }
            Some(_) => return list,
            None => {
                list.push((word.to_owned(), BTreeMap::new()));
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    list
}

fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[i + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_of_real_registries_are_understood() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (header, wanted) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#,
                bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/nginx:pull"),
                ),
            ),
            (
                r#"bearer realm="https://r/t", scope="repository:a/b:pull,push", error="insufficient_scope""#,
                bearer("https://r/t", None, Some("repository:a/b:pull,push")),
            ),
            (r#"Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            (r#"Basic realm="x", Bearer realm=https://y"#, bearer("https://y", None, None)),
            ("Negotiate", None),
            ("Bearer", None),
            ("", None),
            (r#"realm="x""#, None),
        ] {
            assert_eq!(parse([header].into_iter()), wanted, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in ".{0,80}") {
            let _ = parse([header.as_str()].into_iter());
        }
    }
}
