//! Sizes of memory and storage: bytes, written with binary or decimal units.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

/// A number of bytes. In text: `268435456`, `256MiB`, `20GiB`, `1.5TiB`, `10GB`; printed in the largest binary unit
/// that is exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, examples("256MiB"))]
pub struct ByteSize(pub u64);

/// Why a text is not a [`ByteSize`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size: write a number and a unit, for example 256MiB or 20GiB")]
pub struct InvalidSize(String);

const UNITS: [(&str, u64); 12] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }
    pub const fn gib(gib: u64) -> Self {
        Self(gib << 30)
    }
    pub const fn bytes(self) -> u64 {
        self.0
    }
    /// Whole MiB, rounded up.
    pub const fn as_mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }

    /// For people: at most one decimal, never exact.
    pub fn approximate(self) -> String {
        let (unit, factor) = UNITS[..5].iter().find(|(_, factor)| self.0 >= *factor).copied().unwrap_or(("B", 1));
        if factor == 1 {
            return format!("{} B", self.0);
        }
        format!("{:.1} {unit}", self.0 as f64 / factor as f64)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let bad = || InvalidSize(text.chars().filter(|c| !c.is_control()).take(40).collect());
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
        let factor = if unit.is_empty() {
            1
        } else {
            UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(bad)?
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Self).ok_or_else(bad);
        }
        let value: f64 = number.parse().map_err(|_| bad())?;
        let bytes = value * factor as f64;
        // Above 2^53 a fraction is no longer exact; nobody means that.
        if !(0.0..9_007_199_254_740_992.0).contains(&bytes) || bytes.fract() != 0.0 {
            return Err(bad());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS[..5].iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => f.pad(&format!("{}{name}", self.0 / factor)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Number(u64),
            Text(String),
        }
        match Text::deserialize(deserializer)? {
            Text::Number(bytes) => Ok(Self(bytes)),
            Text::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        let parse = |t: &str| t.parse::<ByteSize>().map(ByteSize::bytes);
        assert_eq!(parse("256MiB"), Ok(256 << 20));
        assert_eq!(parse("1.5GiB"), Ok(1536 << 20));
        assert_eq!(parse("10GB"), Ok(10_000_000_000));
        assert_eq!(parse("4096"), Ok(4096));
        for bad in ["", "MiB", "-1MiB", "1XiB", "0.3B", "99999999PiB", "1e9", "NaN", "inf"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(bytes: u64) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>(), Ok(ByteSize(bytes)));
        }
    }
}
