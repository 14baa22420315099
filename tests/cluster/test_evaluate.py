"""What an evaluation says of its episodes."""

from cluster.evaluate import measures


def test_a_measure_is_the_mean_of_the_episodes_that_have_it():
    played = [{"success": 1.0, "recognition": 0.5}, {"success": 0.0}, {"recognition": 1.0}]
    assert measures(played) == {"success": 0.5, "recognition": 0.75}
    assert measures([]) == {}
