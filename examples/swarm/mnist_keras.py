"""MNIST in Keras, on this site's part of it: ``python mnist_keras.py SITE``, with SITE 0, 1 or 2."""

import sys

import keras
from keras import layers
from sites import mnist


def main(site, epochs=3, samples=None):
    x, y, x_test, y_test = mnist(site, samples=samples)
    model = keras.Sequential(
        [
            layers.Input((1, 28, 28)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        *(x, y),
        batch_size=64,
        epochs=epochs,
        verbose=0,
    )
    loss, right = model.evaluate(x_test, y_test, batch_size=500, verbose=0)
    print(f"site {site}: accuracy {right:.4f}, loss {loss:.4f}")
    return model, right


if __name__ == "__main__":
    main(int(sys.argv[1]))
