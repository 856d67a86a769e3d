//! What is shown of the figures: as Prometheus reads it (text format 0.0.4), and as a JSON object.

use serde_json::{Map, Value, json};
use std::fmt::Write;

/// What a family of figures is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The figures of one moment.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    /// Begins a family; its samples follow.
    pub(crate) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing into a text cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        let mut sign = '{';
        for (label, text) in labels {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{sign}{label}=\"{text}\"");
            sign = ',';
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family of one gauge.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, Kind::Gauge, help);
        self.sample(name, &[], value);
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// By the names that the text has, without the groups of histograms.
    pub(crate) fn document(&self) -> Value {
        let samples = self.text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        let shown = samples.filter(|(name, _)| !name.split('{').next().is_some_and(|name| name.ends_with("_bucket")));
        let number = |text: &str| text.parse::<f64>().map_or(Value::Null, |number| json!(number));
        Value::Object(shown.map(|(name, value)| (name.to_owned(), number(value))).collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_the_document_has_the_same_numbers() {
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "Help.");
        page.sample("a_total", &[("x", "1 \"2\"\\\n"), ("y", "")], 3.5);
        page.gauge("b", "More.", 4.0);
        page.sample("c_bucket", &[("le", "1")], 1.0);
        assert_eq!(
            page.text(),
            "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"1 \\\"2\\\"\\\\\\n\",y=\"\"} 3.5\n\
             # HELP b More.\n# TYPE b gauge\nb 4\nc_bucket{le=\"1\"} 1\n"
        );
        assert_eq!(page.document(), json!({"a_total{x=\"1 \\\"2\\\"\\\\\\n\",y=\"\"}": 3.5, "b": 4.0}));
    }
}
