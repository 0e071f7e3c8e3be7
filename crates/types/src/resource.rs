//! The trait that all kinds of object share, and the macro that declares one.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Metadata, ObjectRef};

/// A kind of object: what the store, the API and the CLI need to handle all kinds alike.
pub trait Resource: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Singular, as in `"kind"` and on the command line.
    const KIND: &'static str;
    /// Plural, as in the URL.
    const PLURAL: &'static str;

    fn metadata(&self) -> &Metadata;
    fn metadata_mut(&mut self) -> &mut Metadata;

    fn name(&self) -> &str {
        self.metadata().name.as_str()
    }
    fn reference(&self) -> ObjectRef {
        let metadata = self.metadata();
        ObjectRef { kind: Self::KIND.into(), name: metadata.name.clone(), uuid: metadata.uuid }
    }
}

/// Declares `struct $Name { kind, metadata, spec, status }` and its [`Resource`] implementation.
macro_rules! resource {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $plural:literal, $spec:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// Always the kind's own name.
            #[serde(default = "kind_name", deserialize_with = "kind_checked")]
            pub kind: std::borrow::Cow<'static, str>,
            pub metadata: $crate::Metadata,
            pub spec: $spec,
            #[serde(default)]
            pub status: $status,
        }

        fn kind_name() -> std::borrow::Cow<'static, str> {
            std::borrow::Cow::Borrowed($kind)
        }
        fn kind_checked<'de, D: serde::Deserializer<'de>>(
            deserializer: D,
        ) -> Result<std::borrow::Cow<'static, str>, D::Error> {
            let text = <String as serde::Deserialize>::deserialize(deserializer)?;
            if text == $kind {
                return Ok(kind_name());
            }
            Err(serde::de::Error::custom(format!("kind is '{text}', expected '{}'", $kind)))
        }

        impl $name {
            pub fn new(name: $crate::Name, spec: $spec) -> Self {
                Self { kind: kind_name(), metadata: $crate::Metadata::named(name), spec, status: Default::default() }
            }
        }

        impl $crate::Resource for $name {
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            fn metadata(&self) -> &$crate::Metadata {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut $crate::Metadata {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use resource;
