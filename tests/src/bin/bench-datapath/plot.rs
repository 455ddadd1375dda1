//! The plot: new connections against the number of published ports.

use std::fmt::Write as _;

/// A way's points: ports, and new connections a second at the first, a random and the last port.
pub struct Line {
    /// Its name.
    pub name: &'static str,
    /// By number of ports.
    pub points: Vec<(u16, [f64; 3])>,
}

const LEFT: f64 = 70.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 370.0;
const COLOURS: [&str; 8] =
    ["#555555", "#d1495b", "#f2a6b0", "#00798c", "#66a182", "#edae49", "#8d6a9f", "#2e4057"];

/// An SVG of its own.
pub fn svg(lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|l| &l.points);
    let most = all().flat_map(|(_, values)| values).copied().fold(1.0, f64::max) * 1.05;
    let ports = f64::from(all().map(|(n, _)| *n).max().unwrap_or(10).max(10)).ln();
    let x = |n: u16| LEFT + (RIGHT - LEFT) * f64::from(n).ln() / ports;
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * value / most;
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 430\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"760\" height=\"430\" fill=\"white\"/>\n\
         <text x=\"70\" y=\"24\" font-size=\"15\">New connections a second against published ports</text>\n\
         <text x=\"70\" y=\"41\" fill=\"#555\">point: a random port of them; bar: from the first to the last (medians)</text>\n",
    );
    let step =
        [500.0, 1000.0, 2000.0, 5000.0, 10_000.0].into_iter().find(|s| most / s <= 8.0).unwrap_or(50_000.0);
    let mut tick = 0.0;
    while tick <= most {
        let at = y(tick);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">{tick:.0}</text>",
            at + 4.0
        );
        tick += step;
    }
    let mut numbers: Vec<u16> = all().map(|(n, _)| *n).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for n in numbers {
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"390\" text-anchor=\"middle\">{n}</text>", x(n));
    }
    out += "<text x=\"315\" y=\"415\" text-anchor=\"middle\">published ports (logarithmic)</text>\n";
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> =
            line.points.iter().map(|(n, [_, random, _])| format!("{:.1},{:.1}", x(*n), y(*random))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (n, [first, random, last]) in &line.points {
            let at = x(*n);
            let _ = writeln!(
                out,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2\" opacity=\"0.5\"/>\
                 <circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>",
                y(*first),
                y(*last),
                y(*random)
            );
        }
    }
    // Names beside their last points, or where there is room.
    let mut names: Vec<(f64, &Line, &str)> = Vec::new();
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let Some((_, [_, random, _])) = line.points.last() else { continue };
        names.push((y(*random), line, colour));
    }
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = 0.0;
    for (wanted, line, colour) in names {
        let at = f64::max(wanted, lowest + 16.0);
        lowest = at;
        let _ = writeln!(out, "<text x=\"575\" y=\"{:.1}\" fill=\"{colour}\">{}</text>", at + 4.0, line.name);
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_has_a_line_a_name_and_its_points() {
        let line = |name, factor: f64| Line {
            name,
            points: vec![(1, [factor; 3]), (100, [factor, factor * 0.9, factor * 0.5])],
        };
        let text = svg(&[line("a", 1000.0), line("b", 9000.0)]);
        assert_eq!((text.matches("<polyline").count(), text.matches("<circle").count()), (2, 4), "{text}");
        assert!(text.contains(">a</text>") && text.contains(">b</text>"), "{text}");
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    }
}
