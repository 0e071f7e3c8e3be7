//! Lists: which objects, in which order, which part of them.
//!
//! Pages by name (`continue`) cost what they show. `q`, `sort` and `offset` look at every object of the kind and
//! are for people who scroll.

use std::{cmp::Ordering, collections::HashSet, ops::Bound, sync::Arc};

use gantry_api::rest::{ListQuery, Page};
use gantry_types::{Problem, Selector};

use super::{App, Caller};
use crate::model::{Kind, Table};

const LIMIT: usize = 500;
const MAX_LIMIT: u32 = 1000;
const MAX_NAMES: usize = 500;

/// What a query selects.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    selector: Selector,
    names: Option<HashSet<String>>,
    phase: Option<String>,
    host: Option<String>,
    owner: Option<String>,
    vm: Option<String>,
    /// In lower case.
    needle: Option<String>,
}

impl Filter {
    pub fn of(query: &ListQuery) -> Result<Self, Problem> {
        let selector = query.selector.as_deref().unwrap_or_default();
        let selector = selector.parse().map_err(|error| wrong("selector", format!("{error}")))?;
        let names: Option<HashSet<String>> =
            query.names.as_ref().map(|names| names.split(',').map(str::to_owned).collect());
        if names.as_ref().is_some_and(|names| names.len() > MAX_NAMES) {
            return Err(wrong("names", format!("there are more than {MAX_NAMES}")));
        }
        Ok(Self {
            selector,
            names,
            phase: query.phase.clone(),
            host: query.host.clone(),
            owner: query.owner.clone(),
            vm: query.vm.clone(),
            needle: query.q.as_ref().filter(|q| !q.is_empty()).map(|q| q.to_lowercase()),
        })
    }

    pub fn matches<T: Kind>(&self, object: &T) -> bool {
        if self.names.as_ref().is_some_and(|names| !names.contains(object.name())) {
            return false;
        }
        if !self.selector.matches(&object.metadata().labels) {
            return false;
        }
        let of_facts = [&self.phase, &self.host, &self.owner, &self.vm, &self.needle];
        if of_facts.into_iter().all(Option::is_none) {
            return true;
        }
        let facts = object.facts();
        let is = |wanted: &Option<String>, fact: Option<&str>| wanted.is_none() || wanted.as_deref() == fact;
        is(&self.phase, facts.phase.as_deref())
            && is(&self.host, facts.host)
            && is(&self.owner, object.owner().map(|owner| owner.as_str()))
            && is(&self.vm, facts.vm)
            && self.needle.as_deref().is_none_or(|needle| contains(object, &facts, needle))
    }
}

fn contains<T: Kind>(object: &T, facts: &crate::model::Facts<'_>, needle: &str) -> bool {
    let labels = || object.metadata().labels.0.iter();
    object.name().contains(needle)
        || labels().any(|(key, value)| key.to_lowercase().contains(needle) || value.to_lowercase().contains(needle))
        || facts.host.is_some_and(|host| host.contains(needle))
        || [facts.vm, facts.about].into_iter().flatten().any(|name| name.contains(needle))
        || facts.addresses.iter().any(|address| address.to_string().contains(needle))
}

/// A page of the objects that a query selects, and the caller sees.
pub fn list<T: Kind>(app: &App, caller: &Caller, query: &ListQuery) -> Result<Page<T>, Problem> {
    caller.may_see_some::<T>()?;
    let filter = Filter::of(query)?;
    let limit = match query.limit {
        None => LIMIT,
        Some(limit @ 1..=MAX_LIMIT) => limit as usize,
        Some(other) => return Err(wrong("limit", format!("{other} is out of range, use 1 to {MAX_LIMIT}"))),
    };
    let is_scrolled = query.q.is_some() || query.sort.is_some() || query.offset.is_some();
    if is_scrolled && (query.next.is_some() || query.watch) {
        return Err(wrong("continue", "can't be used with q, sort or offset; use offset"));
    }
    let order = query.sort.as_deref().map(Order::parse).transpose()?;
    let wanted = |object: &T| caller.sees(object) && filter.matches(object);
    let (found, total, more, revision) = app.model.read_at(|tables, revision| {
        let table = T::table(tables);
        if is_scrolled {
            let mut found: Vec<_> = table.values().filter(|object| wanted(object)).map(Arc::clone).collect();
            let total = found.len() as u64;
            if let Some(order) = &order {
                order.sort(&mut found);
            }
            let offset = usize::try_from(query.offset.unwrap_or(0)).unwrap_or(usize::MAX);
            let found = found.into_iter().skip(offset).take(limit).collect();
            return (found, Some(total), false, revision);
        }
        let mut found = after(table, query.next.as_deref()).filter(|object| wanted(object));
        let page: Vec<_> = found.by_ref().take(limit).map(Arc::clone).collect();
        let more = found.next().is_some();
        (page, None, more, revision)
    });
    let next = found.last().filter(|_| more).map(|last| last.name().to_owned());
    let items = found.iter().map(|object| app.model.decorate(&**object)).collect();
    Ok(Page { items, revision, next, total })
}

fn after<'a, T>(table: &'a Table<T>, last: Option<&'a str>) -> impl Iterator<Item = &'a Arc<T>> {
    let start = last.map_or(Bound::Unbounded, Bound::Excluded);
    table.range::<str, _>((start, Bound::Unbounded)).map(|(_, object)| object)
}

fn wrong(field: &str, message: impl Into<String>) -> Problem {
    Problem::invalid("invalid-query", "the query is not valid").field(field, message)
}

/// `host`, `-cpus`
struct Order {
    field: Field,
    descending: bool,
}

#[derive(Clone, Copy)]
enum Field {
    Name,
    CreatedAt,
    Phase,
    Host,
    Owner,
    Cpus,
    Memory,
}

impl Order {
    fn parse(text: &str) -> Result<Self, Problem> {
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let field = match name {
            "name" => Field::Name,
            "created_at" => Field::CreatedAt,
            "phase" => Field::Phase,
            "host" => Field::Host,
            "owner" => Field::Owner,
            "cpus" => Field::Cpus,
            "memory" => Field::Memory,
            other => {
                let known = "name, created_at, phase, host, owner, cpus or memory, or one of them after a '-'";
                return Err(wrong("sort", format!("'{other}' is not known, use {known}")));
            }
        };
        Ok(Self { field, descending })
    }

    /// What is equal stays in the order of names.
    fn sort<T: Kind>(&self, objects: &mut [Arc<T>]) {
        match self.field {
            Field::Name => self.by(objects, |object| object.name().to_owned()),
            Field::CreatedAt => self.by(objects, |object| object.metadata().created_at),
            Field::Phase => self.by(objects, |object| object.facts().phase.map(|phase| phase.into_owned())),
            Field::Host => self.by(objects, |object| object.facts().host.map(str::to_owned)),
            Field::Owner => self.by(objects, |object| object.owner().map(ToString::to_string)),
            Field::Cpus => self.by(objects, |object| object.facts().cpus),
            Field::Memory => self.by(objects, |object| object.facts().memory_bytes),
        }
    }

    fn by<T, K: Ord>(&self, objects: &mut [Arc<T>], key: impl Fn(&T) -> K) {
        let direction = |order: Ordering| if self.descending { order.reverse() } else { order };
        let mut keyed: Vec<_> = objects.iter().map(|object| (key(object), Arc::clone(object))).collect();
        keyed.sort_by(|(one, _), (other, _)| direction(one.cmp(other)));
        for (place, (_, object)) in objects.iter_mut().zip(keyed) {
            *place = object;
        }
    }
}
