//! Receivers of notices. Their secrets are written and never read again, by anybody but who sends.

use async_trait::async_trait;
use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{
    AlarmSeverity, Channel, Email, MailEncryption, Name, Notice, NoticeSpec, NoticeState, Problem, Receiver,
    ReceiverStatus, Resource, Webhook,
};

use super::{
    App, Caller,
    managed::{Managed, Mistake},
};
use crate::{
    alarms::{channel::is_address, notices},
    model::Tables,
    objects::Change,
};

const TO_MAX: usize = 16;

fn mistakes_of_webhook(webhook: &Webhook) -> Vec<Mistake> {
    let mut wrong = Vec::new();
    let url = reqwest::Url::parse(&webhook.url).ok();
    let is_http = url.as_ref().is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if !is_http || webhook.url.len() > 2048 {
        wrong.push(("spec.via.webhook.url".to_owned(), "is not a URL that begins with http:// or https://".to_owned()));
    }
    if url.is_some_and(|url| !url.username().is_empty() || url.password().is_some()) {
        let told = "has a user's name or password in it, which would be shown: use authorization".to_owned();
        wrong.push(("spec.via.webhook.url".to_owned(), told));
    }
    let is_header = |text: &String| text.len() <= 4096 && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if webhook.authorization.as_ref().is_some_and(|text| !is_header(text)) {
        let told = "is not the value of a header: printable ASCII, at most 4096 bytes".to_owned();
        wrong.push(("spec.via.webhook.authorization".to_owned(), told));
    }
    wrong
}

fn mistakes_of_email(email: &Email) -> Vec<Mistake> {
    let mut wrong = Vec::new();
    let mut refuse = |field: &str, told: String| wrong.push((format!("spec.via.email.{field}"), told));
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    if email.server.is_empty() || email.server.len() > 253 || !email.server.chars().all(is_host) {
        refuse("server", "is not the name or address of a host".to_owned());
    }
    if email.password.is_some() && email.username.is_none() {
        refuse("username", "is missing, and there is a password".to_owned());
    }
    if !is_address(&email.from) {
        refuse("from", format!("'{}' is not an address of e-mail", email.from));
    }
    if email.to.is_empty() || email.to.len() > TO_MAX {
        refuse("to", format!("has {} addresses, use 1 to {TO_MAX}", email.to.len()));
    }
    for (index, to) in email.to.iter().enumerate().filter(|(_, to)| !is_address(to)) {
        refuse(&format!("to[{index}]"), format!("'{to}' is not an address of e-mail"));
    }
    wrong
}

/// Where a secret is sent; one that is kept must not go elsewhere.
fn destination(via: &Channel) -> (&str, Option<u16>, Option<MailEncryption>, Option<&str>) {
    match via {
        Channel::Webhook(webhook) => (&webhook.url, None, None, None),
        Channel::Email(email) => (&email.server, email.port, Some(email.encryption), email.username.as_deref()),
    }
}

#[async_trait]
impl Managed for Receiver {
    const EVENT: &'static str = "Receiver";

    fn mistakes(&self) -> Vec<Mistake> {
        let mut wrong = match &self.spec.via {
            Channel::Webhook(webhook) => mistakes_of_webhook(webhook),
            Channel::Email(email) => mistakes_of_email(email),
        };
        if self.spec.alarms.len() > 256 {
            wrong.push(("spec.alarms".to_owned(), "has more than 256 names".to_owned()));
        }
        wrong
    }

    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake> {
        let missing = |(index, name): (usize, &Name)| {
            let told = format!("alarm '{name}' does not exist; see: gantry alarm list");
            (!tables.alarms.contains_key(name.as_str())).then(|| (format!("spec.alarms[{index}]"), told))
        };
        self.spec.alarms.iter().enumerate().filter_map(missing).collect()
    }

    fn users(&self, _tables: &Tables) -> Vec<String> {
        Vec::new()
    }

    async fn settle(&mut self, _app: &App, _current: Option<&Self>, _change: &mut Change) -> Result<(), Problem> {
        self.status = ReceiverStatus { has_secret: self.spec.secret_mut().is_some() };
        Ok(())
    }

    /// A secret that is left out stays, as long as it goes to the same place.
    fn with_status_of(mut self, current: &Self) -> Self {
        let kept = current.clone().spec.secret_mut().take();
        let goes_there_too = destination(&self.spec.via) == destination(&current.spec.via);
        if goes_there_too && self.spec.secret_mut().is_none() {
            *self.spec.secret_mut() = kept;
        }
        self.status = ReceiverStatus { has_secret: self.spec.secret_mut().is_some() };
        self
    }
}

/// Sends it a notice about nothing.
pub async fn test(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Notice>, Problem> {
    caller.may_change()?;
    let receiver: Receiver = app.objects.get(name).await?;
    let spec = NoticeSpec {
        receiver: receiver.metadata.name.clone(),
        alarm: "test".parse().unwrap_or_else(|error| panic!("{error}")),
        severity: AlarmSeverity::Info,
        state: NoticeState::Test,
        object: receiver.reference(),
        message: format!("{} tries receiver '{name}'; nothing has happened", caller.name),
        since: app.clock.now(),
    };
    let mut notice = notices::new(app, spec);
    if !query.dry_run {
        let mut change = Change::new();
        change.create(&notice)?;
        notice.metadata.revision = app.commit(change).await?;
        app.wakeups.notices.notify_one();
    }
    Ok(Changed { object: notice, operation: None })
}
