"""A judge over softmax regression, so that losses, outputs and gradients can be checked by hand."""

import torch
from torch.nn import functional

CLASSES = 3


class LinearJudge:
    """vector = a (CLASSES, features) matrix, flat. Training and held-out data come from one true matrix."""

    def __init__(self, seed, features=4, samples=60):
        random = torch.Generator().manual_seed(seed)
        self.truth = 3 * torch.randn(CLASSES, features, generator=random)
        self.train = torch.randn(samples, features, generator=random)
        self.held_out = torch.randn(samples, features, generator=random)
        self.labels = (self.train @ self.truth.T).argmax(1)
        self.held_out_labels = (self.held_out @ self.truth.T).argmax(1)
        self.size = self.truth.numel()

    def loss(self, vector):
        return float(self._loss(vector))

    def _loss(self, vector):
        return functional.cross_entropy(self.held_out @ vector.view(CLASSES, -1).T, self.held_out_labels)

    def gradient(self, vector):
        vector = vector.clone().requires_grad_()
        return torch.autograd.grad(self._loss(vector), vector)[0]

    def root_gradient(self, vector):
        return self.gradient(vector)

    def training_outputs(self, vector):
        return self.train @ vector.view(CLASSES, -1).T, self.labels
