//! Changes single fields of a raw JSON object and leaves everything else as it was sent, byte for byte.

use std::{borrow::Cow, fmt, iter, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{
        IntoDeserializer, MapAccess, Visitor,
        value::{self, BorrowedStrDeserializer, MapDeserializer},
    },
};
use serde_json::value::RawValue;

use super::{message::push_json_str, skim};

/// `object` with the string field `key`: replaced where it stands, else added at the end.
///
/// Anything but a JSON object comes back unchanged.
pub fn with_string(object: &RawValue, key: &str, value: &str) -> Box<RawValue> {
    let mut json = Vec::with_capacity(value.len() + 2);
    push_json_str(&mut json, value);
    with(object, key, &String::from_utf8(json).unwrap_or_default())
}

/// `object` with the field `key`, whose value is the JSON `value`: replaced where it stands, else added at the end.
///
/// Anything but a JSON object comes back unchanged.
pub fn with(object: &RawValue, key: &str, value: &str) -> Box<RawValue> {
    let Some(fields) = Fields::read(object) else { return object.to_owned() };
    let mut text = Vec::with_capacity(object.get().len() + key.len() + value.len() + 8);
    text.push(b'{');
    let mut writer = FieldsWriter::new(&mut text);
    for (name, raw) in fields.iter() {
        writer.push(name, if name == key { value } else { raw.get() });
    }
    if fields.get(key).is_none() {
        writer.push(key, value);
    }
    text.push(b'}');
    from_bytes(text).unwrap_or_else(|| object.to_owned())
}

/// `object` without the field `key`. Anything but a JSON object comes back unchanged.
pub fn without(object: &RawValue, key: &str) -> Box<RawValue> {
    let Some(fields) = Fields::read(object).filter(|fields| fields.get(key).is_some()) else {
        return object.to_owned();
    };
    let mut text = Vec::with_capacity(object.get().len());
    text.push(b'{');
    let mut writer = FieldsWriter::new(&mut text);
    fields.iter().filter(|(name, _)| *name != key).for_each(|(name, raw)| writer.push(name, raw.get()));
    text.push(b'}');
    from_bytes(text).unwrap_or_else(|| object.to_owned())
}

/// The fields `names` of `object`, as far as it has them, as a JSON object of its own. `None` when it is no object.
///
/// What a server sends beside them goes no further: spliced into an event, it could stand for fields of ours.
pub fn pick<const N: usize>(object: &str, names: [&str; N]) -> Option<String> {
    let mut found = [None; N];
    for (name, value) in skim::fields(object)? {
        if let Some(index) = names.iter().position(|it| skim::is(name, it)) {
            found[index].get_or_insert(value);
        }
    }
    let mut picked = String::with_capacity(object.len() + 2);
    for (name, value) in names.iter().zip(found) {
        if let Some(value) = value {
            picked.push(if picked.is_empty() { '{' } else { ',' });
            ["\"", name, "\":", value].into_iter().for_each(|part| picked.push_str(part));
        }
    }
    picked.push_str(if picked.is_empty() { "{}" } else { "}" });
    Some(picked)
}

/// The field `name` of `object`. `None` when it has none, or is no object.
pub fn field<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    Fields::read(object)?.get(name)
}

/// The string field `name` of `object`.
pub fn text(object: &RawValue, name: &str) -> Option<String> {
    string(field(object, name)?)
}

/// The text of a JSON string. `None` when it is none.
pub fn string(raw: &RawValue) -> Option<String> {
    String::deserialize(raw).ok()
}

/// Text as a JSON string, quotes included.
pub fn quoted(text: &str) -> String {
    let mut json = Vec::with_capacity(text.len() + 2);
    push_json_str(&mut json, text);
    String::from_utf8(json).unwrap_or_default()
}

/// An object of these fields, which are JSON already, with commas between them.
pub fn object(fields: &str) -> Box<RawValue> {
    RawValue::from_string(format!("{{{fields}}}")).unwrap_or_default()
}

/// An array of these entries.
pub fn array(entries: &[Box<RawValue>]) -> String {
    let entries: Vec<&str> = entries.iter().map(|entry| entry.get()).collect();
    format!("[{}]", entries.join(","))
}

/// JSON that was put together from valid parts. `None` if it is none after all.
pub fn from_bytes(json: Vec<u8>) -> Option<Box<RawValue>> {
    RawValue::from_string(String::from_utf8(json).ok()?).ok()
}

/// Text that is known to be JSON, as a raw value, without reading it once more: it was found in JSON by `envelope.rs` or `skim.rs`.
/// `None` when serde_json should have no way to say so any more.
pub fn known(json: &str) -> Option<&RawValue> {
    unchecked(BorrowedStrDeserializer::new(json))
}

/// As [`known`], without copying it either.
pub fn known_owned(json: String) -> Option<Box<RawValue>> {
    // What holds for the one way holds for the other.
    if known(&json).is_none() {
        return RawValue::from_string(json).ok();
    }
    unchecked(json.into_deserializer())
}

/// What serde_json hands a raw value over in to whoever deserializes one: a map of one entry, whose value is taken as it is.
fn unchecked<'a, T: Deserialize<'a>>(json: impl IntoDeserializer<'a, value::Error>) -> Option<T> {
    const NAME: &str = "$serde_json::private::RawValue";
    T::deserialize(MapDeserializer::new(iter::once((NAME, json)))).ok()
}

/// Where in `whole` the text `part` lies, if it is a part of that very text.
pub fn place_in(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// The fields of an object, in their order, each value as it was sent.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Reads an object. `None` when it is none.
    pub fn read(object: &'a RawValue) -> Option<Fields<'a>> {
        serde_json::from_str(object.get()).ok()
    }

    /// The first field of this name.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, raw)| *raw)
    }

    /// The first name that stands here twice. Of two such fields one program takes the first and another the last.
    pub fn repeated(&self) -> Option<&str> {
        let mut names: Vec<&str> = self.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }

    /// Every field.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, raw)| (&**name, *raw))
    }
}

/// Writes the fields of an object, with commas between them.
pub struct FieldsWriter<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
}

impl<'o> FieldsWriter<'o> {
    /// Appends to `out`, which ends with the object's opening brace.
    pub fn new(out: &'o mut Vec<u8>) -> FieldsWriter<'o> {
        FieldsWriter { out, is_first: true }
    }

    /// Appends a field whose value is this JSON.
    pub fn push(&mut self, name: &str, json: &str) {
        self.push_with(name, |out| out.extend_from_slice(json.as_bytes()));
    }

    /// Appends a field whose value `push` appends.
    pub fn push_with(&mut self, name: &str, push: impl FnOnce(&mut Vec<u8>)) {
        self.comma();
        push_json_str(self.out, name);
        self.out.push(b':');
        push(self.out);
    }

    /// Appends fields that are written already, with commas between them.
    pub fn push_all(&mut self, fields: &str) {
        self.comma();
        self.out.extend_from_slice(fields.as_bytes());
    }

    fn comma(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A name, borrowed unless it has escapes.
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
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
        let pick = |json: &str| pick(json, ["index", "data"]);
        let spoof = r#"{"data":[1, 2],"event":"complete","id":"other","index":1e0,"data":3}"#;
        assert_eq!(pick(spoof).unwrap(), r#"{"index":1e0,"data":[1, 2]}"#);
        assert_eq!(pick("{}").unwrap(), "{}");
        assert!(pick("[1]").is_none() && pick("5").is_none());
    }

    #[test]
    fn what_is_known_to_be_json_is_taken_as_it_is() {
        let json = r#"{"a": [1.10, "x"]}"#;
        assert_eq!(known(json).unwrap().get(), json);
        let owned = json.to_owned();
        let at = owned.as_ptr();
        let owned = known_owned(owned).unwrap();
        assert_eq!((owned.get(), owned.get().as_ptr()), (json, at), "neither changed nor copied");
    }

    #[test]
    fn only_what_lies_in_a_text_has_a_place_in_it() {
        let text = "0123456789";
        assert_eq!(place_in(&text[2..6], &text[3..5]), Some(1..3));
        assert_eq!(place_in(&text[2..6], &text[3..7]), None);
        assert_eq!(place_in(&text[2..6], &text[1..3]), None);
        assert_eq!(place_in(text, &String::from("01")), None);
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
