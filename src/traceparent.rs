//! A caller's place in a distributed trace, in the form of [W3C Trace Context](https://www.w3.org/TR/trace-context/).

use std::sync::Arc;

/// The name of the header and of the field; programs find it in the variable of that name in upper case.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// That variable, as OpenTelemetry names it.
pub(crate) const TRACEPARENT_VARIABLE: &str = "TRACEPARENT";

/// Bytes of a value of version 00; those of later versions begin with the same fields.
const LENGTH: usize = 55;

/// A `traceparent` that is right, of version 00.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traceparent(Arc<str>);

impl Traceparent {
    /// Reads a value. One that is wrong counts as none, as the standard has it: a request does not fail because of a trace.
    /// Of a later version the fields that are known make one of version 00.
    pub fn parse(text: &str) -> Option<Traceparent> {
        let text = text.trim();
        let fields = text.get(..LENGTH)?;
        let rest = &text[LENGTH..];
        let mut parts = fields.split('-');
        let mut field = |length: usize| {
            let is_hex =
                |part: &&str| part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            parts.next().filter(is_hex)
        };
        let (version, trace, parent, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let is_zero = |id: &str| id.bytes().all(|b| b == b'0');
        let ends = rest.is_empty() || version != "00" && rest.starts_with('-');
        let right = version != "ff" && !is_zero(trace) && !is_zero(parent) && ends;
        right.then(|| Traceparent(format!("00-{trace}-{parent}-{flags}").into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_right_counts() {
        let right = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (ids, zero) = (&right[2..52], "00000000000000000000000000000000");
        for (text, expected) in [
            (right.to_owned(), Some(right)),
            (format!(" {right}\t"), Some(right)),
            (format!("cc{}", &right[2..]), Some(right)),
            (format!("01{}-what-the-future-brings", &right[2..]), Some(right)),
            (format!("{right}-more"), None),
            (format!("{right}0"), None),
            (format!("01{}.more", &right[2..]), None),
            (format!("ff{}", &right[2..]), None),
            (right.to_uppercase(), None),
            (right[..54].to_owned(), None),
            (format!("00{ids}-0g"), None),
            (format!("00-{zero}-b7ad6b7169203331-01"), None),
            (format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", &zero[..16]), None),
            (right.replace('-', "_"), None),
            (format!("{}ä", &right[..54]), None),
            (String::new(), None),
        ] {
            assert_eq!(Traceparent::parse(&text).as_ref().map(Traceparent::as_str), expected, "{text}");
        }
    }
}
