//! Changes single fields of a raw JSON object and leaves everything else as it was sent, byte for byte.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::message::push_json_str;

/// `object` with the string field `key`: replaced where it stands, else added at the end.
///
/// Anything but a JSON object comes back unchanged.
pub fn with_string(object: &RawValue, key: &str, value: &str) -> Box<RawValue> {
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(object.get()) else {
        return object.to_owned();
    };
    let mut text = Vec::with_capacity(object.get().len() + key.len() + value.len() + 8);
    text.push(b'{');
    let mut is_set = false;
    for (name, raw) in &fields.0 {
        push_name(&mut text, name);
        if name == key {
            push_json_str(&mut text, value);
            is_set = true;
        } else {
            text.extend_from_slice(raw.get().as_bytes());
        }
    }
    if !is_set {
        push_name(&mut text, key);
        push_json_str(&mut text, value);
    }
    text.push(b'}');
    // Valid parts in valid order make a valid whole; if ever not, the unchanged object is the safe answer.
    let text = String::from_utf8(text).ok();
    text.and_then(|text| RawValue::from_string(text).ok()).unwrap_or_else(|| object.to_owned())
}

/// The fields `names` of `object`, as far as it has them, as a JSON object of its own. `None` when it is no object.
///
/// What a server sends beside them goes no further: spliced into an event, it could stand for fields of ours.
pub fn pick(object: &RawValue, names: &[&str]) -> Option<String> {
    let fields: Fields<'_> = serde_json::from_str(object.get()).ok()?;
    let value_of = |name: &str| fields.0.iter().find(|(it, _)| it == name).map(|(_, raw)| raw.get());
    let picked = names.iter().filter_map(|name| Some(format!("\"{name}\":{}", value_of(name)?)));
    Some(format!("{{{}}}", picked.collect::<Vec<_>>().join(",")))
}

/// The field `name` of `object`. `None` when it has none, or is no object.
pub fn field<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let fields: Fields<'a> = serde_json::from_str(object.get()).ok()?;
    fields.0.into_iter().find(|(it, _)| it == name).map(|(_, raw)| raw)
}

fn push_name(text: &mut Vec<u8>, name: &str) {
    if text.last() != Some(&b'{') || text.len() != 1 {
        text.push(b',');
    }
    push_json_str(text, name);
    text.push(b':');
}

/// The fields of an object, in their order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_fields_are_picked_and_each_once() {
        let pick = |json: &str| pick(&RawValue::from_string(json.to_owned()).unwrap(), &["index", "data"]);
        let spoof = r#"{"data":[1, 2],"event":"complete","id":"other","index":1e0,"data":3}"#;
        assert_eq!(pick(spoof).unwrap(), r#"{"index":1e0,"data":[1, 2]}"#);
        assert_eq!(pick("{}").unwrap(), "{}");
        assert!(pick("[1]").is_none() && pick("5").is_none());
    }

    #[test]
    fn one_field_changes_and_the_rest_stays_as_it_was() {
        let cases = [
            (r#"{"a": 1.10 ,"b":{"z":1,"y":2}}"#, r#"{"a":1.10,"b":{"z":1,"y":2},"k":"v\""}"#),
            (r#"{"k":7,"b":12345678901234567890}"#, r#"{"k":"v\"","b":12345678901234567890}"#),
            ("{}", r#"{"k":"v\""}"#),
            ("[1]", "[1]"),
        ];
        for (before, after) in cases {
            let raw = RawValue::from_string(before.to_owned()).unwrap();
            assert_eq!(with_string(&raw, "k", "v\"").get(), after, "{before}");
        }
    }
}
