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
