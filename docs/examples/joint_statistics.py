"""A mean over the rows of three hospitals, a product over rows of the same person, and
a question asked each morning.

    .venv/bin/python -m docs.examples.joint_statistics [URL TOKEN_FILE]

runs beside `./run up`, as the user of hospital 4 and once of hospital 2, in the
project's folder.
"""

from __future__ import annotations

import sys

from api.client import Federation, StatisticsResult

HOSPITALS = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}
FILES = {2: "lab_values.csv", 3: "lab_values.csv", 4: "lab_values.parquet"}
GLUCOSE = {
    "data_providers": [
        {
            "name": name,
            "data_path": FILES[user],
            "data_type": FILES[user].rpartition(".")[2],
            "key_column": "glucose",
        }
        for user, name in HOSPITALS.items()
    ],
    "result_receivers": [HOSPITALS[4]],
    "method": "avg",
    "result_alias": "glucose",
}
TOTAL_VALUE = {
    "data_providers": [
        {
            "name": HOSPITALS[2],
            "data_path": "drug_prices.csv",
            "data_type": "csv",
            "key_column": "id_col",
        },
        {
            "name": HOSPITALS[3],
            "data_path": "drug_units.csv",
            "data_type": "csv",
            "key_column": "id_col",
        },
    ],
    "result_receivers": [HOSPITALS[2], HOSPITALS[3]],
    "method": "custom",
    "expression": "df1.unit_price * df2.units",
    "result_alias": "total_value",
}


def main(hospital_4: Federation, hospital_2: Federation) -> list[StatisticsResult]:
    """Prints what each answer says of itself, and its values where the policies let
    them be told.
    """
    by_age = hospital_4.statistics(GLUCOSE, group_by=["age_group"], disclose=True)
    products = hospital_2.statistics(TOTAL_VALUE)
    for result in (by_age, products):
        print(
            f"\n{result.path}, rows {result.extra['rows_used']}",
            *result.extra["notes"],
            sep="\n  ",
        )
        print("In the receivers' folders." if result.values is None else result.values)

    schedule = hospital_4.schedule_statistics(
        GLUCOSE, cron="0 6 * * *", timezone="Asia/Shanghai", name="each morning"
    )
    print(f"\n{hospital_4.schedules()[['name', 'active', 'next_run']]}")
    schedule.pause().delete()
    print(f"\n{hospital_4.history(limit=5)[['started', 'state', 'path']]}")
    return [by_age, products]


if __name__ == "__main__":
    url, token_file = sys.argv[1:] or (
        "http://127.0.0.1:5000",
        ".consilium/tokens.json",
    )
    with (
        Federation(url, token_file=token_file, user=4) as four,
        Federation(url, token_file=token_file, user=2) as two,
    ):
        main(four, two)
