//! Credentials of registries on their way into the store.

use tonic::Status;

use super::Control;
use crate::{model, proto::v1};

impl Control {
    /// What `spec` is to hold of a registry's credentials: those that came with the request,
    /// sealed, or `old`. What the request says is sealed is not believed.
    pub(super) fn seal_auth(
        &self,
        spec: &mut model::ServiceSpec,
        given: Option<v1::RegistryAuth>,
        old: Option<&model::Sealed>,
    ) -> Result<(), Status> {
        let given = given.map(model::RegistryAuth::from);
        let registry = spec.task.image.registry();
        if let Some(other) = given.as_ref().filter(|g| g.server != registry) {
            return Err(Status::invalid_argument(format!(
                "the credentials are for registry {}, and the image is of {registry}",
                other.server
            )));
        }
        spec.task.registry_auth =
            self.sealer.renew(old, given.as_ref(), registry).map_err(|e| Status::internal(e.to_string()))?;
        Ok(())
    }
}
