//! How long files are.

/// From here on a file is worth a look.
const REPORT: usize = 400;
/// No file may be longer.
pub const LIMIT: usize = 800;

/// What is worth saying.
pub struct Report {
    /// One line for each long file, longest first.
    pub lines: Vec<String>,
    /// How many are past the limit.
    pub too_long: usize,
}

/// Judges files given as (path, text).
pub fn lengths(files: &[(String, String)]) -> Report {
    let mut long: Vec<(usize, &str)> = files
        .iter()
        .map(|(path, text)| (text.lines().count(), path.as_str()))
        .filter(|(n, _)| *n > REPORT)
        .collect();
    long.sort_by(|a, b| b.cmp(a));
    Report {
        too_long: long.iter().filter(|(n, _)| *n > LIMIT).count(),
        lines: long.iter().map(|(n, path)| format!("{n} lines: {path}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_named_and_too_long_ones_counted() {
        let file = |name: &str, n: usize| (name.to_owned(), "x\n".repeat(n));
        let report = lengths(&[file("a", 400), file("b", 401), file("c", 801)]);
        assert_eq!(report.lines, ["801 lines: c", "401 lines: b"]);
        assert_eq!(report.too_long, 1);
    }
}
