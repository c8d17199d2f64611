"""PCA-whitening of patch tokens: one component of a ViT's tokens otherwise swamps every cosine."""

import torch
from torch import Tensor, nn


class Whitening(nn.Module):
    """z = S^{-1/2} Uᵀ(f − μ), with an image's mean token subtracted from f first where `centre` is set.

    One linear layer of the exported graph; the source of every feature similarity in the losses.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, dim: int, components: int, centre: bool) -> None:
        super().__init__()
        self.centre = centre
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.zeros(components, dim))

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Whiten tokens.

        Args:
            tokens: (B, N, D), all tokens of each image.
            positions: (S,) or (B, S), the tokens wanted; None for all.
        Returns:
            (B, N or S, k), zero mean and unit variance over the training tokens.
        """
        mean = self.mean + tokens.mean(1, keepdim=True) if self.centre else self.mean
        if positions is not None:
            index = positions.expand(tokens.shape[0], -1)
            tokens = torch.take_along_dim(tokens, index.unsqueeze(2), 1)
        return (tokens - mean) @ self.basis.T


def identity(dim: int) -> Whitening:
    """A whitening that leaves tokens of `dim` channels as they are."""
    module = Whitening(dim, dim, centre=False)
    module.basis.copy_(torch.eye(dim))
    return module


class TokenStatistics:
    """Mean and covariance of tokens, accumulated image by image in float64, with and without centring."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.total = torch.zeros(dim, dtype=torch.float64)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64)
        self.image_outer = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, tokens: Tensor) -> None:
        """Add the tokens (N, D) of one image."""
        x = tokens.double()
        mean = x.mean(0)
        self.count += len(x)
        self.total += x.sum(0)
        self.outer += (tokens.float().T @ tokens.float()).double()
        self.image_outer += len(x) * torch.outer(mean, mean)

    def spectrum(self, centre: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean (D,), eigenvalues (D,) in falling order and eigenvectors (D, D) in columns."""
        if centre:
            mean = torch.zeros_like(self.total)
            covariance = (self.outer - self.image_outer) / self.count
        else:
            mean = self.total / self.count
            covariance = self.outer / self.count - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(covariance)
        return mean, values.flip(0).clamp_min(0.0), vectors.flip(1)

    def whitening(self, components: int, centre: bool) -> Whitening:
        """Fit a `Whitening` to the leading components."""
        mean, values, vectors = self.spectrum(centre)
        # A fixed sign for each eigenvector: the same data give the same checkpoint on any machine.
        largest = vectors.abs().argmax(0)
        vectors = vectors * vectors[largest, torch.arange(vectors.shape[1])].sign()
        module = Whitening(len(mean), components, centre)
        scale = (values[:components] + 1e-6 * values[0]).rsqrt()
        module.mean.copy_(mean.float())
        module.basis.copy_((vectors[:, :components] * scale).T.float())
        return module
