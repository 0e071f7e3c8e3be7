//! Labels and the selectors that choose by them, with Kubernetes' grammar for both.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

/// `key=value` marks on an object. Keys: 1–63 of `A-Za-z0-9-_./`; values: up to 63 of `A-Za-z0-9-_.`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = std::collections::HashMap<String, String>)]
pub struct Labels(pub BTreeMap<String, String>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first label that breaks the grammar, described.
    pub fn validate(&self) -> Result<(), String> {
        for (key, value) in &self.0 {
            if !valid_key(key) {
                return Err(format!("label key '{key}' must be 1 to 63 of A-Z, a-z, 0-9, '-', '_', '.', '/'"));
            }
            if !valid_value(value) {
                return Err(format!(
                    "value '{value}' of label '{key}' must be up to 63 of A-Z, a-z, 0-9, '-', '_', '.'"
                ));
            }
        }
        Ok(())
    }
}

fn valid_key(key: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (1..=63).contains(&key.len()) && key.chars().all(allowed)
}
fn valid_value(value: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    value.len() <= 63 && value.chars().all(allowed)
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined: Vec<_> = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
        f.pad(&joined.join(","))
    }
}

/// A conjunction of requirements: `app=web,tier!=db,env in (a,b),env notin (c),critical,!old`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Why a text is not a [`Selector`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a label selector: write key=value, key!=value, key, !key or key in (a,b), joined by ','")]
pub struct InvalidSelector(String);

impl Selector {
    /// As in Kubernetes, `!=` and `notin` also choose objects that do not have the key.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.iter().any(|x| x == v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| values.iter().all(|x| x != v)),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::Absent(key) => labels.get(key).is_none(),
        })
    }
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;
    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        let bad = || InvalidSelector(text.chars().filter(|c| !c.is_control()).take(100).collect());
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            requirements.push(parse_requirement(part.trim()).ok_or_else(bad)?);
        }
        Ok(Self { requirements })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.requirements.iter().map(ToString::to_string).collect();
        f.pad(&texts.join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(key, values) => match values.as_slice() {
                [value] => write!(f, "{key}={value}"),
                _ => write!(f, "{key} in ({})", values.join(",")),
            },
            Self::NotIn(key, values) => match values.as_slice() {
                [value] => write!(f, "{key}!={value}"),
                _ => write!(f, "{key} notin ({})", values.join(",")),
            },
            Self::Exists(key) => f.write_str(key),
            Self::Absent(key) => write!(f, "!{key}"),
        }
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < text.len() || !parts.is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    let key = |k: &str| Some(k.trim().to_owned()).filter(|k| valid_key(k));
    let value = |v: &str| Some(v.trim().to_owned()).filter(|v| valid_value(v));
    let set = |s: &str| {
        let inner = s.trim().strip_prefix('(')?.strip_suffix(')')?;
        inner.split(',').map(value).collect::<Option<Vec<_>>>()
    };
    if let Some((k, v)) = part.split_once("!=") {
        return Some(Requirement::NotIn(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = part.split_once(" notin ") {
        return Some(Requirement::NotIn(key(k)?, set(v)?));
    }
    if let Some((k, v)) = part.split_once(" in ") {
        return Some(Requirement::In(key(k)?, set(v)?));
    }
    if let Some(k) = part.strip_prefix('!') {
        return Some(Requirement::Absent(key(k)?));
    }
    Some(Requirement::Exists(key(part)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        Labels(text.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
    }

    #[test]
    fn selects() {
        let web = labels("app=web,env=prod");
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,env!=test", true),
            ("app in (db,web)", true),
            ("app notin (db, web)", false),
            ("tier notin (db)", true),
            ("!tier,app", true),
            ("!app", false),
            ("app=db", false),
        ] {
            assert_eq!(selector.parse::<Selector>().map(|s| s.matches(&web)), Ok(expected), "{selector}");
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for text in ["", "app=web", "app!=web", "app in (db,web)", "app notin (db,web)", "critical", "!old,app=web"] {
            let selector: Selector = text.parse().expect("a selector");
            assert_eq!(selector.to_string(), text);
            assert_eq!(serde_json::from_str::<Selector>(&format!("\"{text}\"")).ok(), Some(selector));
        }
    }

    #[test]
    fn refuses_nonsense() {
        for bad in ["a=b=c", ",", "a in b", "a in (b", "=x", "a=b,", "a b", "a=ü"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
