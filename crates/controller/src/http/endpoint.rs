//! Routes that are documented where they are declared: one declaration feeds both the router and OpenAPI 3.1.

use std::sync::Arc;

use axum::{Router, routing::MethodRouter};
use gantry_api::access::SESSION_COOKIE;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        Content, ContentBuilder, HttpMethod, OpenApi, OpenApiBuilder, Paths, Ref, RefOr, Required, Response,
        ResponseBuilder,
        path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::{ComponentsBuilder, ObjectBuilder, Schema, Type},
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::Front;

const BEARER: &str = "bearer";
const SESSION: &str = "session";

/// Collects routes and their documentation.
pub struct Routes {
    pub router: Router<Arc<Front>>,
    paths: Paths,
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// The documentation of one method of one path.
pub struct Endpoint {
    method: HttpMethod,
    path: String,
    summary: String,
    tag: String,
    public: bool,
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    status: u16,
    answer: Option<Content>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Endpoint {
    pub fn new(method: HttpMethod, path: impl Into<String>, tag: &str, summary: impl Into<String>) -> Self {
        let path = path.into();
        let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let text = || ObjectBuilder::new().schema_type(Type::String).build();
        let parameter = |name: &str| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(text()))
                .build()
        };
        let parameters = in_path.map(parameter).collect();
        Self {
            method,
            summary: summary.into(),
            tag: tag.into(),
            public: false,
            parameters,
            body: None,
            status: 200,
            answer: None,
            schemas: Vec::new(),
            path,
        }
    }

    /// Needs no token: a health check, or something that brings its own proof.
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }
    pub fn query<T: IntoParams>(mut self) -> Self {
        self.parameters.extend(T::into_params(|| Some(ParameterIn::Query)));
        self
    }
    pub fn body<T: ToSchema>(mut self) -> Self {
        let content = self.content::<T>();
        self.body =
            Some(RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True)).build());
        self
    }
    /// A body of any bytes.
    pub fn bytes(mut self) -> Self {
        let content = ContentBuilder::new().build();
        self.body = Some(
            RequestBodyBuilder::new()
                .content("application/octet-stream", content)
                .required(Some(Required::True))
                .build(),
        );
        self
    }
    pub fn answers<T: ToSchema>(mut self, status: u16) -> Self {
        self.answer = Some(self.content::<T>());
        self.status = status;
        self
    }
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn content<T: ToSchema>(&mut self) -> Content {
        let name = schema_name::<T>();
        T::schemas(&mut self.schemas);
        self.schemas.push((name.clone(), T::schema()));
        ContentBuilder::new().schema(Some(RefOr::<Schema>::Ref(Ref::from_schema_name(name)))).build()
    }

    fn operation(self) -> utoipa::openapi::path::Operation {
        let answer = match self.answer {
            Some(content) => ResponseBuilder::new().description("Done.").content("application/json", content).build(),
            None => Response::new("Done."),
        };
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let refusal = ResponseBuilder::new()
            .description("Refused; the problem says why and what to do (RFC 9457).")
            .content("application/problem+json", problem);
        let mut operation = OperationBuilder::new()
            .summary(Some(self.summary))
            .tag(self.tag)
            .parameters(Some(self.parameters))
            .request_body(self.body)
            .response(self.status.to_string(), answer)
            .response("default", refusal.build());
        if !self.public {
            for scheme in [BEARER, SESSION] {
                operation = operation.security(SecurityRequirement::new(scheme, std::iter::empty::<String>()));
            }
        }
        operation.build()
    }
}

impl Routes {
    pub fn new() -> Self {
        Self { router: Router::new(), paths: Paths::new(), schemas: Vec::new() }
    }

    /// Adds a route. Methods of one path are added one by one.
    pub fn add(mut self, mut endpoint: Endpoint, handler: MethodRouter<Arc<Front>>) -> Self {
        self.router = self.router.route(&endpoint.path, handler);
        self.schemas.append(&mut endpoint.schemas);
        let (path, method) = (endpoint.path.clone(), endpoint.method.clone());
        self.paths.add_path_operation(path, vec![method], endpoint.operation());
        self
    }

    /// A route that is no part of the public API (a host's, or the document itself).
    pub fn add_internal(mut self, path: &str, handler: MethodRouter<Arc<Front>>) -> Self {
        self.router = self.router.route(path, handler);
        self
    }

    /// Adds the schema of something that is sent but is nobody's request or answer.
    pub fn schema<T: ToSchema>(mut self) -> Self {
        T::schemas(&mut self.schemas);
        self.schemas.push((schema_name::<T>(), T::schema()));
        self
    }

    pub fn document(self, info: utoipa::openapi::Info) -> OpenApi {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let session = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(SESSION_COOKIE)));
        let components = ComponentsBuilder::new()
            .schemas_from_iter(self.schemas)
            .security_scheme(BEARER, bearer)
            .security_scheme(SESSION, session)
            .build();
        OpenApiBuilder::new().info(info).paths(self.paths).components(Some(components)).build()
    }
}

/// `Page<Vm>` becomes `PageVm`: a generic type's own name would be the same for every kind.
fn schema_name<T: ToSchema>() -> String {
    let parts = std::any::type_name::<T>().split(['<', '>', ',']);
    let names = parts.filter_map(|path| path.trim().rsplit("::").next());
    let generic: String = names.collect();
    if std::any::type_name::<T>().contains('<') { generic } else { T::name().into_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use gantry_api::rest::{Changed, Page};
    use gantry_types::{Host, Vm};

    use super::*;

    #[test]
    fn generic_types_are_told_apart() {
        assert_eq!(schema_name::<Vm>(), "Vm");
        assert_eq!(schema_name::<Page<Vm>>(), "PageVm");
        assert_eq!(schema_name::<Changed<Host>>(), "ChangedHost");
    }

    #[test]
    fn the_document_names_nothing_that_it_lacks() {
        let document = serde_json::to_value(super::super::openapi()).expect("JSON");
        let text = document.to_string();
        let defined: HashSet<_> = document["components"]["schemas"].as_object().expect("schemas").keys().collect();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a reference").to_owned();
            assert!(defined.contains(&name), "{name} is not defined");
        }
        assert_eq!(document["openapi"], "3.1.0");
        assert!(document["paths"]["/v1/vms/{name}/migrate"]["post"].is_object());
    }
}
