//! A registry's own words, out of its answer to a request it refused.

use serde::Deserialize;

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Entry>,
    // Token servers write one of these.
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// The words of a body; those of the status when it has none.
pub(super) fn of(status: hyper::StatusCode, body: &[u8]) -> String {
    let own = match serde_json::from_slice::<Body>(body) {
        Ok(b) => {
            let mut list: Vec<String> = Vec::new();
            for entry in b.errors {
                let code = entry.code.map(|c| c.replace('_', " ").to_lowercase());
                list.extend(entry.message.filter(|m| !m.is_empty()).or(code));
            }
            list.extend(b.error_description.or(b.details).or(b.message).or(b.error));
            list.dedup();
            list.join("; ")
        }
        Err(_) => {
            // A page for a browser says nothing here; a line of text may.
            let text = String::from_utf8_lossy(&body[..body.len().min(300)]).trim().to_owned();
            if text.starts_with(['<', '{', '[']) { String::new() } else { text }
        }
    };
    if own.is_empty() { status.to_string().to_lowercase() } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_say_is_found() {
        for (status, body, words) in [
            (
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"9"}}]}"#,
                "manifest unknown",
            ),
            (403, r#"{"errors":[{"code":"DENIED"}]}"#, "denied"),
            (401, r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            (
                429,
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#,
                "You have reached your pull rate limit.",
            ),
            (502, "<html>Bad Gateway</html>", "502 bad gateway"),
            (503, "try later\n", "try later"),
            (500, "", "500 internal server error"),
            (500, r#"{"errors":7}"#, "500 internal server error"),
        ] {
            let status = hyper::StatusCode::from_u16(status).unwrap();
            assert_eq!(of(status, body.as_bytes()), words, "{body}");
        }
    }
}
