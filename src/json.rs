//! `json!`, which is written like the one of `serde_json` and makes less code: 80 kB of the whole program.
//!
//! What the gateway tells of itself is some hundred fields. Each costs the program one call here, with what it would be otherwise: a
//! string made, a map entered and what stood there dropped, each with its own way out for a panic.

use serde::Serialize;
use serde_json::{Map, Value};

/// A JSON value, as `serde_json::json!` takes it. A key may be any expression of one token that is text, or stand in parentheses.
macro_rules! json {
    (null) => { ::serde_json::Value::Null };
    ({ $($fields:tt)* }) => {{
        #[allow(unused_mut, reason = "it may have no fields")]
        let mut object = ::serde_json::Map::new();
        $crate::json::fields!(object $($fields)*);
        ::serde_json::Value::Object(object)
    }};
    ([ $($elements:tt)* ]) => {{
        #[allow(unused_mut, reason = "it may have no elements")]
        let mut array = ::std::vec::Vec::new();
        $crate::json::elements!(array $($elements)*);
        ::serde_json::Value::Array(array)
    }};
    ($value:expr) => { $crate::json::value(&$value) };
}

/// Sets the fields of an object, one by one.
macro_rules! fields {
    ($object:ident) => {};
    ($object:ident $key:tt : null $(, $($rest:tt)*)?) => {
        $crate::json::fields!($object $key : (::serde_json::Value::Null) $(, $($rest)*)?)
    };
    ($object:ident $key:tt : { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        let inner = $crate::json::json!({ $($inner)* });
        $crate::json::set(&mut $object, ::std::convert::AsRef::<str>::as_ref(&$key), inner);
        $($crate::json::fields!($object $($rest)*);)?
    };
    ($object:ident $key:tt : [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        let inner = $crate::json::json!([ $($inner)* ]);
        $crate::json::set(&mut $object, ::std::convert::AsRef::<str>::as_ref(&$key), inner);
        $($crate::json::fields!($object $($rest)*);)?
    };
    ($object:ident $key:tt : $value:expr $(, $($rest:tt)*)?) => {
        $crate::json::set_to(&mut $object, ::std::convert::AsRef::<str>::as_ref(&$key), &$value);
        $($crate::json::fields!($object $($rest)*);)?
    };
}

/// Adds the elements of an array, one by one.
macro_rules! elements {
    ($array:ident) => {};
    ($array:ident { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $crate::json::add(&mut $array, $crate::json::json!({ $($inner)* }));
        $($crate::json::elements!($array $($rest)*);)?
    };
    ($array:ident [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $crate::json::add(&mut $array, $crate::json::json!([ $($inner)* ]));
        $($crate::json::elements!($array $($rest)*);)?
    };
    ($array:ident $value:expr $(, $($rest:tt)*)?) => {
        $crate::json::add(&mut $array, $crate::json::value(&$value));
        $($crate::json::elements!($array $($rest)*);)?
    };
}

pub(crate) use {elements, fields, json};

/// What `it` is in JSON; null if it has no form there, which nothing of ours has not.
#[inline(never)]
pub(crate) fn value<T: Serialize + ?Sized>(it: &T) -> Value {
    serde_json::to_value(it).unwrap_or_default()
}

/// Adds an element.
#[inline(never)]
pub(crate) fn add(array: &mut Vec<Value>, value: Value) {
    array.push(value);
}

/// Sets a field.
#[inline(never)]
pub(crate) fn set(object: &mut Map<String, Value>, key: &str, value: Value) {
    object.insert(key.to_owned(), value);
}

/// Sets a field to what `it` is in JSON.
#[inline(never)]
pub(crate) fn set_to<T: Serialize + ?Sized>(object: &mut Map<String, Value>, key: &str, it: &T) {
    set(object, key, value(it));
}

#[cfg(test)]
mod tests {
    use serde_json::json as expected;

    #[test]
    fn it_makes_the_same_as_the_one_it_stands_for() {
        let (name, list) = ("c".to_owned(), vec![1, 2]);
        let ours = json!({
            "a": null, "b": { "c": [], "d": {} }, name: Some(1.5), (format!("{name}d")): [list, { "x": "y" }, [true], -1,],
            "last": list.iter().map(|it| it + 1).collect::<Vec<_>>(),
        });
        let theirs = expected!({
            "a": null, "b": { "c": [], "d": {} }, name.clone(): Some(1.5), (format!("{name}d")): [list, { "x": "y" }, [true], -1,],
            "last": list.iter().map(|it| it + 1).collect::<Vec<_>>(),
        });
        assert_eq!(ours.to_string(), theirs.to_string());
        assert_eq!([json!(null), json!("x"), json!([])], [expected!(null), expected!("x"), expected!([])]);
    }
}
