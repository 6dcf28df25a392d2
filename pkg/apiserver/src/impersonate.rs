//! Acting as somebody else: `kubectl --as`, by the headers `Impersonate-User` and `Impersonate-Group`. For administrators,
//! who lose by it what the other has not.

use http::HeaderMap;

use crate::auth::{NODE_PREFIX, NODES, User};
use crate::error::{ApiError, ApiResult};

/// Whom the headers name, acted as by `user`; `user` itself when they name nobody.
///
/// # Errors
/// When somebody else than an administrator asks for it, or the headers are not understood.
pub(crate) fn acting(user: User, headers: &HeaderMap) -> ApiResult<User> {
    let names = |key: &str| {
        let value = |v: &http::HeaderValue| v.to_str().map(str::to_owned);
        headers.get_all(key).iter().map(value).collect::<Result<Vec<String>, _>>()
    };
    let unreadable = |_| ApiError::bad_request("an Impersonate header is not text");
    let (users, groups) =
        (names("impersonate-user").map_err(unreadable)?, names("impersonate-group").map_err(unreadable)?);
    let name = match users.as_slice() {
        [] if groups.is_empty() => return Ok(user),
        [] => return Err(ApiError::bad_request("Impersonate-Group needs Impersonate-User")),
        [name] if !name.is_empty() => name,
        _ => return Err(ApiError::bad_request("Impersonate-User must name one user")),
    };
    if !matches!(user, User::Admin(_)) {
        let why = format!("User {:?} cannot impersonate users; administrators can", user.name());
        return Err(ApiError::forbidden(why));
    }
    let mut groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    // A node is a node by its name: clients that act as one do not say its group.
    if groups.is_empty() && name.starts_with(NODE_PREFIX) {
        groups.push(NODES);
    }
    Ok(User::from_certificate(name, &groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (key, value) in pairs {
            out.append(*key, value.parse().unwrap());
        }
        out
    }

    #[test]
    fn administrators_act_as_others_and_lose_their_rights() {
        let admin = || User::Admin("a".into());
        let acting_as = |pairs: &[(&'static str, &str)]| acting(admin(), &headers(pairs)).unwrap();
        assert_eq!(acting_as(&[]), admin());
        let account = "system:serviceaccount:kube-system:warren";
        assert_eq!(acting_as(&[("impersonate-user", account)]), User::Other(account.into()));
        assert_eq!(acting_as(&[("impersonate-user", "system:node:n1")]), User::Node("n1".into()));
        let master = [("impersonate-user", "b"), ("impersonate-group", "system:masters")];
        assert_eq!(acting_as(&master), User::Admin("b".into()));
    }

    #[test]
    fn others_do_not() {
        for user in
            [User::Viewer("v".into()), User::Node("n1".into()), User::Other("o".into()), User::Anonymous]
        {
            assert!(acting(user.clone(), &headers(&[("impersonate-user", "x")])).is_err());
            assert_eq!(acting(user.clone(), &headers(&[])).unwrap(), user);
        }
    }

    #[test]
    fn headers_that_say_nothing_clear_are_refused() {
        let admin = || User::Admin("a".into());
        for bad in [
            &[("impersonate-group", "g")][..],
            &[("impersonate-user", "")],
            &[("impersonate-user", "a"), ("impersonate-user", "b")],
        ] {
            assert!(acting(admin(), &headers(bad)).is_err(), "{bad:?}");
        }
    }
}
