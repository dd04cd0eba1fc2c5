"""Templates are read as CloudFormation reads them."""

from services.cloudformation import parse_template


def test_short_functions_are_the_long_ones() -> None:
    assert parse_template(
        """
        Conditions:
          Wanted: !Not [!Condition Unwanted]
        Properties:
          Name: !Sub "${Prefix}-requests"
          Arn: !GetAtt Other.Arn
          Nested: !GetAtt Other.Endpoint.Address
          Ref: !If [Wanted, !Ref Prefix, !Ref AWS::NoValue]
        """
    ) == {
        "Conditions": {"Wanted": {"Fn::Not": [{"Condition": "Unwanted"}]}},
        "Properties": {
            "Name": {"Fn::Sub": "${Prefix}-requests"},
            "Arn": {"Fn::GetAtt": ["Other", "Arn"]},
            "Nested": {"Fn::GetAtt": ["Other", "Endpoint.Address"]},
            "Ref": {"Fn::If": ["Wanted", {"Ref": "Prefix"}, {"Ref": "AWS::NoValue"}]},
        },
    }


def test_json_is_read_too_and_a_date_stays_text() -> None:
    assert parse_template('{"A": {"Type": "T"}}') == {"A": {"Type": "T"}}
    assert parse_template("A: {Type: T, Version: 2012-10-17}")["A"]["Version"] == "2012-10-17"
