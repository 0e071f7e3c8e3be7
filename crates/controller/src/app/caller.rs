//! Who asks, and what he may.
//!
//! A role that is not named where something is allowed may not do it. Whoever may only see his own VMs is told of
//! others' what he would be told if they did not exist.

use gantry_types::{Name, Problem, Resource, Role, User, Vm};

use crate::model::Kind;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `token/admin`, `user/ann`, `host/host-1`, `controller`.
    pub name: String,
    pub role: Role,
    /// The user himself, if he logged in.
    user: Option<Name>,
    consoles: bool,
}

impl Caller {
    /// The controller itself.
    pub fn controller() -> Self {
        Self { name: "controller".into(), role: Role::Admin, user: None, consoles: false }
    }
    pub fn is_controller(&self) -> bool {
        *self == Self::controller()
    }
    /// An operation that needs others.
    pub fn operation(name: &Name) -> Self {
        Self { name: format!("operation/{name}"), role: Role::Admin, user: None, consoles: false }
    }
    /// A policy in mode `automatic`.
    pub fn policy(name: &Name) -> Self {
        Self { name: format!("policy/{name}"), role: Role::Admin, user: None, consoles: false }
    }
    pub fn token(name: &str, role: Role) -> Self {
        let consoles = matches!(role, Role::Admin | Role::Operator);
        Self { name: format!("token/{name}"), role, user: None, consoles }
    }
    pub fn user(user: &User) -> Self {
        Self {
            name: format!("user/{}", user.name()),
            role: user.spec.role,
            user: Some(user.metadata.name.clone()),
            consoles: user.spec.may_open_consoles(),
        }
    }

    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Whether he may open consoles of the VMs that he may see.
    pub fn has_consoles(&self) -> bool {
        self.consoles
    }

    fn denied(&self, what: &str, remedy: &str) -> Problem {
        Problem::denied("denied", format!("{} may not {what}", self.name)).remedy(remedy)
    }

    /// # Errors
    /// `denied` unless this caller may change things.
    pub fn may_change(&self) -> Result<(), Problem> {
        match self.role {
            Role::Admin | Role::Operator => Ok(()),
            Role::Viewer | Role::User | Role::Join => Err(self
                .denied("change anything", "use a token with the role admin: gantry token create NAME --role admin")),
        }
    }

    /// # Errors
    /// `denied` unless this caller may decide who may do what.
    pub fn may_administer(&self) -> Result<(), Problem> {
        match self.role {
            Role::Admin => Ok(()),
            Role::Operator | Role::Viewer | Role::User | Role::Join => {
                Err(self.denied("change users or tokens, or read the audit log", "ask an administrator"))
            }
        }
    }

    /// # Errors
    /// `denied` unless this caller may read everything.
    pub fn may_read(&self) -> Result<(), Problem> {
        match self.role {
            Role::Admin | Role::Operator | Role::Viewer => Ok(()),
            Role::User => Err(self.denied("see anything but his own VMs", "ask an administrator")),
            Role::Join => Err(Problem::denied("denied", format!("{} may only join a host", self.name))
                .remedy("use a token with the role viewer or admin")),
        }
    }

    /// # Errors
    /// `denied` unless this caller may see objects of this kind, all or his own.
    pub fn may_see_some<T: Kind>(&self) -> Result<(), Problem> {
        if self.role == Role::User && T::HAS_OWNERS { Ok(()) } else { self.may_read() }
    }

    /// Whether he is shown this one.
    pub fn sees<T: Kind>(&self, object: &T) -> bool {
        match self.role {
            Role::Admin | Role::Operator | Role::Viewer => true,
            Role::User => self.user.is_some() && object.owner() == self.user.as_ref(),
            Role::Join => false,
        }
    }

    /// Whether he sees all objects of every kind.
    pub fn sees_all(&self) -> bool {
        self.may_read().is_ok()
    }

    /// # Errors
    /// `denied` unless this caller may restart and recover VMs, all or his own.
    pub fn may_operate_some(&self) -> Result<(), Problem> {
        if self.role == Role::User { Ok(()) } else { self.may_change() }
    }

    /// # Errors
    /// `denied` unless this caller may restart and recover this VM; `not-found` if he does not even see it.
    pub fn may_operate(&self, vm: &Vm) -> Result<(), Problem> {
        self.may_operate_some()?;
        if self.sees(vm) { Ok(()) } else { Err(Problem::not_found(Vm::KIND, vm.name())) }
    }

    /// # Errors
    /// `denied` unless this caller may open consoles of the VMs that he sees.
    pub fn may_open_consoles(&self) -> Result<(), Problem> {
        self.may_see_some::<Vm>()?;
        if self.consoles {
            return Ok(());
        }
        Err(self.denied("open consoles", "an administrator can allow it: gantry user set NAME --consoles true"))
    }

    /// # Errors
    /// `denied` unless this caller may set the password of the user called `name`.
    pub fn may_set_password(&self, name: &str) -> Result<(), Problem> {
        if self.user.as_ref().is_some_and(|user| user.as_str() == name) { Ok(()) } else { self.may_administer() }
    }
}

#[cfg(test)]
mod tests {
    use gantry_types::{ApiToken, Host, UserSpec};

    use super::*;

    fn user(name: &str, role: Role, consoles: Option<bool>) -> Caller {
        let spec = UserSpec { display_name: None, role, consoles, disabled: false };
        Caller::user(&User::new(name.parse().unwrap(), spec))
    }

    fn vm_of(owner: Option<&str>) -> Vm {
        let mut vm: Vm = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web"}, "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB"}
        }))
        .unwrap();
        vm.spec.owner = owner.map(|owner| owner.parse().unwrap());
        vm
    }

    #[test]
    fn a_user_has_his_own_vms_and_nothing_else() {
        let ann = user("ann", Role::User, None);
        assert!(ann.sees(&vm_of(Some("ann"))) && ann.may_operate(&vm_of(Some("ann"))).is_ok());
        for other in [None, Some("bob")] {
            assert!(!ann.sees(&vm_of(other)));
            assert_eq!(ann.may_operate(&vm_of(other)).unwrap_err().status, 404);
        }
        assert!(ann.may_see_some::<Vm>().is_ok() && ann.may_open_consoles().is_ok());
        assert!(ann.may_see_some::<Host>().is_err() && ann.may_see_some::<ApiToken>().is_err());
        assert!(ann.may_change().is_err() && ann.may_read().is_err() && ann.may_administer().is_err());
        assert!(ann.may_set_password("ann").is_ok() && ann.may_set_password("bob").is_err());
    }

    #[test]
    fn a_token_with_a_users_role_is_nobody() {
        let token = Caller::token("t", Role::User);
        assert!(!token.sees(&vm_of(None)) && token.may_operate(&vm_of(None)).is_err());
        assert!(token.may_set_password("t").is_err() && token.may_open_consoles().is_err());
    }

    #[test]
    fn roles_and_the_permission_for_consoles() {
        let rights = |caller: &Caller| {
            [caller.may_read(), caller.may_change(), caller.may_administer(), caller.may_open_consoles()]
                .map(|right| right.is_ok())
        };
        assert_eq!(rights(&user("a", Role::Admin, None)), [true; 4]);
        assert_eq!(rights(&user("a", Role::Operator, None)), [true, true, false, true]);
        assert_eq!(rights(&user("a", Role::Viewer, None)), [true, false, false, false]);
        assert_eq!(rights(&user("a", Role::Viewer, Some(true))), [true, false, false, true]);
        assert_eq!(rights(&user("a", Role::Operator, Some(false))), [true, true, false, false]);
        assert_eq!(rights(&user("a", Role::User, Some(false))), [false; 4]);
        assert_eq!(rights(&Caller::token("t", Role::Join)), [false; 4]);
        assert_eq!(rights(&Caller::token("t", Role::Viewer)), [true, false, false, false]);
    }
}
