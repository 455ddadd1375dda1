//! Printing. Pure functions from rows to text, so that they can be read in tests.

use std::io::Write as _;

use super::{Format, ListArgs};

/// A list to print: column names, and for each row its cells and its JSON.
pub(super) struct List {
    columns: Vec<&'static str>,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    cells: Vec<String>,
    json: serde_json::Value,
}

impl List {
    pub(super) fn new(columns: impl Into<Vec<&'static str>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row: what `-q` prints, one cell a column, and the object of `--format json`.
    pub(super) fn row(&mut self, id: impl Into<String>, cells: Vec<String>, json: serde_json::Value) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(Row { id: id.into(), cells, json });
    }

    /// The list as text, ending with a newline unless empty.
    pub(super) fn render(&self, args: ListArgs) -> String {
        match (args.quiet, args.format) {
            (true, _) => self.rows.iter().map(|r| format!("{}\n", r.id)).collect(),
            (false, Format::Json) => {
                let all: Vec<_> = self.rows.iter().map(|r| r.json.clone()).collect();
                format!("{:#}\n", serde_json::Value::Array(all))
            }
            (false, Format::Table) => table(&self.columns, self.rows.iter().map(|r| r.cells.as_slice())),
        }
    }

    pub(super) fn print(&self, args: ListArgs) -> anyhow::Result<()> {
        print(&self.render(args))
    }
}

/// Writes text to standard output. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    offer(text).map(drop)
}

/// The same for one of many texts: whether somebody still reads them.
pub(super) fn offer(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Columns as wide as their widest cell, three spaces between, as Docker prints them.
fn table<'a>(columns: &[&str], rows: impl Iterator<Item = &'a [String]> + Clone) -> String {
    let mut width: Vec<usize> = columns.iter().map(|c| c.chars().count()).collect();
    for row in rows.clone() {
        for (w, cell) in width.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut l = String::new();
        for (w, cell) in width.iter().zip(cells) {
            l.push_str(&format!("{cell:<w$}   "));
        }
        text.push_str(l.trim_end());
        text.push('\n');
    };
    line(&mut columns.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> List {
        let mut l = List::new(["NAME", "PORTS"]);
        l.row("1", vec!["web".into(), "8080:80/tcp".into()], serde_json::json!({"name": "web"}));
        l.row("2", vec!["a-longer-name".into(), String::new()], serde_json::json!({"name": "a-longer-name"}));
        l
    }

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let args = ListArgs { format: Format::Table, quiet: false };
        assert_eq!(
            list().render(args),
            "NAME            PORTS\nweb             8080:80/tcp\na-longer-name\n"
        );
    }

    #[test]
    fn quiet_prints_what_identifies() {
        assert_eq!(list().render(ListArgs { format: Format::Json, quiet: true }), "1\n2\n");
    }

    #[test]
    fn json_is_one_array() {
        let text = list().render(ListArgs { format: Format::Json, quiet: false });
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value[1]["name"], "a-longer-name");
        let empty = List::new(["A"]).render(ListArgs { format: Format::Json, quiet: false });
        assert_eq!(empty, "[]\n");
    }
}
