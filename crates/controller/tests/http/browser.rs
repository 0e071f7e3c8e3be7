//! A browser as far as the API can tell: a cookie, the page's CSRF token and an `Origin`.

use gantry_api::access::{CSRF_HEADER, SessionInfo};
use gantry_hostlink::answer;
use gantry_types::Problem;
use reqwest::{Method, RequestBuilder, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::datacenter::{Api, Datacenter, refused};

pub struct Browser {
    pub api: Api,
    pub cookie: String,
    pub session: SessionInfo,
}

impl Browser {
    pub async fn log_in(datacenter: &Datacenter, name: &str, password: &str) -> Self {
        let api = datacenter.with_token(None);
        let login = json!({"name": name, "password": password});
        let response = api.request(Method::POST, "/v1/session").json(&login).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "{:?}", response.text().await);
        let cookie = response.headers()[header::SET_COOKIE].to_str().expect("text").to_owned();
        for attribute in ["__Host-gantry=", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
            assert!(cookie.contains(attribute), "{attribute}: {cookie}");
        }
        let cookie = cookie.split(';').next().expect("a value").to_owned();
        Self { api, cookie, session: response.json().await.expect("a session") }
    }

    /// A user with this role and a session.
    pub async fn of_role(datacenter: &Datacenter, name: &str, role: &str) -> Self {
        let made: Value =
            datacenter.admin.send(Method::POST, "/v1/users", &json!({"name": name, "role": role})).await.expect("made");
        Self::log_in(datacenter, name, made["password"].as_str().expect("a password")).await
    }

    /// What a page of the controller sends.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.by_cookie(method, path).header(header::ORIGIN, &self.api.url);
        request.header(CSRF_HEADER, self.session.csrf_token.as_deref().expect("a token"))
    }

    /// What a browser sends by itself.
    pub fn by_cookie(&self, method: Method, path: &str) -> RequestBuilder {
        self.api.request(method, path).header(header::COOKIE, format!("theme=dark; {}", self.cookie))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        answer("the controller", self.by_cookie(Method::GET, path)).await
    }

    pub async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &Value) -> Result<T, Problem> {
        answer("the controller", self.request(method, path).json(body)).await
    }

    pub async fn refused(&self, method: Method, path: &str, body: &Value) -> Problem {
        refused(self.request(method, path).json(body)).await
    }
}
